"""How numbers, choices and what was probably meant are said in messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["any_of", "counted", "did_you_mean", "either", "first_lines", "images_of"]


def counted(count: int, one: str, many: str = "") -> str:
    """ "1 query", "2,000 queries": a count and its noun; ``many`` is ``one`` with an s if empty.

    A verb goes along with its noun: ``counted(n, "query has", "queries have")``.
    """
    return f"{count:,} {either(count, one, many or one + 's')}"


def either(count: float, one: str, many: str) -> str:
    """``one`` for a count of 1, else ``many``: "is" or "are", "it" or "them"."""
    return one if count == 1 else many


def images_of(images: int, identities: int) -> str:
    """ "72,000 images of 6,000 identities": the size of a training set."""
    return f"{counted(images, 'image')} of {counted(identities, 'identity', 'identities')}"


def any_of(words: Sequence[str]) -> str:
    """ "train, query or gallery": one of several words."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """ " Did you mean 'mpn'?", the space included: the nearest of ``known``, or "" if none is near.

    ``prefix`` is written before the known word.
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{prefix}{near[0]}'?" if near else ""


def first_lines(lines: Sequence[str], most: int = 5) -> str:
    """The first ``most``, each on an indented line of its own, and how many more there are."""
    more = len(lines) - most
    shown = [*lines[:most], *([f"and {more:,} more"] if more > 0 else [])]
    return "".join(f"\n  {line}" for line in shown)
