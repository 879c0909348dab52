"""How numbers are said."""

from __future__ import annotations

import pytest

from crosscam.wording import counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1234, "1,234 files")]
)
def test_a_count_and_its_noun(count: int, words: str) -> None:
    assert counted(count, "file") == words


def test_a_plural_of_its_own() -> None:
    assert counted(1, "query", "queries") == "1 query"
    assert counted(3, "query", "queries") == "3 queries"
