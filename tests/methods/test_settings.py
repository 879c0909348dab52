"""Settings of a method that would teach nothing, or something else than they say."""

from __future__ import annotations

from typing import Any

import pytest

from crosscam.errors import RecipeError
from crosscam.methods import BackboneSettings, Method, find

SMALL = BackboneSettings("resnet18", width=0.125)


def build(name: str, **options: Any) -> Method:
    return find(name)(4, backbone=SMALL, **options)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["baseline", "mpn", "san", "msfl", "mmga"])
@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_margins_below_zero_or_without_end_are_refused(name: str, margin: float) -> None:
    with pytest.raises(RecipeError, match=r"method\.margin must be (a number of )?0 "):
        build(name, margin=margin)


def test_other_margins_too() -> None:
    with pytest.raises(
        RecipeError, match=r"constraint_margin must be a number of 0 or more, got -1"
    ):
        build("san", constraint_margin=-1)
    with pytest.raises(RecipeError, match=r"texture_margin must be a number of 0 or more, got -1"):
        build("mpn+texture", texture_margin=-1)
    with pytest.raises(RecipeError, match=r"method\.margin must be 0 to 4, .*; got 4\.1"):
        build("mpn", margin=4.1)


def test_more_refinements_than_levels_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"refine=\[9, 9, 9, 9, 9\] has more numbers than"):
        build("msfl", refine=(9, 9, 9, 9, 9))
    with pytest.raises(RecipeError, match=r"refine=\[2, 2, 1\] has more numbers than .*\[3, 4\]"):
        build("msfl", levels=(3, 4), refine=(2, 2, 1))
    build("msfl", levels=(3, 4))  # the default is cut
