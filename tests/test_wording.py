"""How numbers are said."""

from __future__ import annotations

import pytest

from crosscam.wording import any_of, counted, did_you_mean, either, first_lines, images_of


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1234, "1,234 files")]
)
def test_a_count_and_its_noun(count: int, words: str) -> None:
    assert counted(count, "file") == words


def test_words_agree_with_a_count() -> None:
    assert counted(1, "query has", "queries have") == "1 query has"
    assert [either(n, "it is", "they are") for n in (0, 1, 1.0, 2)] == [
        "they are", "it is", "it is", "they are"
    ]  # fmt: skip


def test_a_plural_of_its_own() -> None:
    assert counted(1, "query", "queries") == "1 query"
    assert counted(3, "query", "queries") == "3 queries"


def test_one_of_several_words() -> None:
    assert any_of(["a"]) == "a"
    assert any_of(["a", "b"]) == "a or b"
    assert any_of(["a", "b", "c"]) == "a, b or c"


def test_the_nearest_word_is_offered() -> None:
    assert did_you_mean("mpm", {"msfl": 1, "mpn": 2}) == " Did you mean 'mpn'?"
    assert did_you_mean("resnet5", ["resnet50"], "timm:") == " Did you mean 'timm:resnet50'?"
    assert did_you_mean("zzz", ["mpn"]) == ""


def test_the_first_lines_and_how_many_more() -> None:
    assert first_lines([]) == ""
    assert first_lines(["a", "b"], 2) == "\n  a\n  b"
    assert first_lines(["a"] + ["b"] * 1200, 1) == "\n  a\n  and 1,200 more"


def test_the_size_of_a_training_set() -> None:
    assert images_of(72_000, 6_000) == "72,000 images of 6,000 identities"
    assert images_of(1, 1) == "1 image of 1 identity"
