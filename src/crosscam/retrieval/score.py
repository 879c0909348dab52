"""Evaluation of anyone's features from one ``.npz`` file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from crosscam.errors import FeatureError
from crosscam.retrieval.evaluation import SameCamera, evaluate
from crosscam.retrieval.metrics import APRule, Metrics
from crosscam.retrieval.pairs import Metric
from crosscam.retrieval.reranking import RerankSettings

__all__ = ["read_features", "score_file"]

REQUIRED = ("query_features", "query_pids", "gallery_features", "gallery_pids")
CAMERAS = ("query_camids", "gallery_camids")


def read_features(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of a features file, as arguments of ``evaluate``.

    The file holds ``query_features`` [Q, D], ``query_pids`` [Q], ``query_camids`` [Q] and the
    same for the gallery (``numpy.savez``).  Cameras may be missing; they are then None.

    Raises:
        FeatureError: no such file, not an .npz file of plain arrays, or one that lacks some.
    """
    path = Path(path)
    if path.is_dir():
        raise FeatureError(f"{path} is a folder: give the .npz file itself.")
    if not path.is_file():
        raise FeatureError(f"there is no file {path}. Write one with numpy.savez.")
    name = ""
    try:
        with path.open("rb") as file:  # closed here even if it is no .npz at all
            begins = file.read(6)
            if begins == b"\x93NUMPY":
                raise FeatureError(f"{path} holds a single array, and a features file holds six.")
            if not begins.startswith(b"PK"):
                raise FeatureError(f"{path} is not an .npz file. Write one with numpy.savez.")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            present = loaded.files
            arrays = {}
            for name in (n for n in (*REQUIRED, *CAMERAS) if n in present):
                arrays[name] = loaded[name]
    except PermissionError as error:
        raise FeatureError(f"{path} may not be read ({error.strerror}).") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, FeatureError):
            raise
        if isinstance(error, ValueError) and name and "pickle" in str(error):
            # NumPy's own advice is to run what the file says.
            raise FeatureError(
                f"{name} in {path} holds Python objects and not plain numbers. Convert it before "
                "it is written (features .astype(np.float32), ids .astype(np.int64))."
            ) from error
        raise FeatureError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}). "
            "Write it with numpy.savez."
        ) from error
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise FeatureError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(present) or 'nothing'}. "
            f"Needed are {', '.join(REQUIRED)} and, if known, {', '.join(CAMERAS)}."
        )
    return {name: arrays.get(name) for name in (*REQUIRED, *CAMERAS)}


def score_file(
    path: str | os.PathLike[str],
    *,
    rerank: bool | RerankSettings = False,
    ap: APRule = "rank-precision",
    metric: Metric = "cosine",
    same_camera: SameCamera = "drop",
    threads: int | None = None,
    device: str = "cpu",
) -> Metrics:
    """``evaluate`` for the features in an ``.npz`` file.

        m = score_file("features.npz", rerank=True)
        print(m.table())  # or json.dumps(m.to_json())

    ``rerank=True`` re-ranks with the paper's settings; a ``RerankSettings`` gives others.
    """
    settings = rerank if isinstance(rerank, RerankSettings) else RerankSettings()
    return evaluate(
        **read_features(path),
        ap=ap,
        metric=metric,
        same_camera=same_camera,
        rerank=settings if rerank else None,
        threads=threads,
        device=device,
    )
