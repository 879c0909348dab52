"""What the tests share: where real data is, if anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Small networks run faster on one thread, and results do not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets (market1501/, cuhk03-np/), or a skip that says what is missing."""
    named = os.environ.get("CROSSCAM_DATA", "")
    if not named:
        pytest.skip("no real images: set CROSSCAM_DATA to a folder that has market1501/")
    root = Path(named).resolve()
    if not (root / "market1501").is_dir():
        pytest.skip(f"no real images: CROSSCAM_DATA={root} has no market1501/")
    return root
