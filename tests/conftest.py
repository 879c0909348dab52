"""What the tests share: where real data is, if anywhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Small networks run faster on one thread, and results do not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# In the background Ctrl-C and hang-ups are ignored, and whoever a test starts and stops by them
# would inherit that.
for _name in ("SIGINT", "SIGHUP"):
    _number = getattr(signal, _name, None)  # no hang-ups on Windows
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


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
