"""How numbers are said in messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, one: str, many: str = "") -> str:
    """ "1 query", "2,000 queries": a count and its noun; ``many`` is ``one`` with an s if empty."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
