"""What features and labels must look like, and the errors that say so."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.wording import counted

__all__ = [
    "COSINE",
    "EUCLIDEAN",
    "Features",
    "Labels",
    "check_choice",
    "check_count",
    "check_features",
    "check_labels",
]

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

COSINE, EUCLIDEAN = 0, 1
"""The kinds of scores: cosine similarity, minus the squared distance."""


def _as_array(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FeatureError(
            f"{name} cannot be read as an array ({error}). Give a NumPy array; of a torch tensor "
            "use .detach().float().cpu().numpy()."
        ) from error


def check_features(features: npt.ArrayLike, name: str) -> Features:
    """``features`` as C-contiguous float32 [N, D]; a copy only if it is not that already."""
    array = _as_array(features, name)
    if not np.issubdtype(array.dtype, np.floating):
        raise FeatureError(
            f"{name} must be floating-point numbers, got dtype {array.dtype}. "
            "Convert them with .astype(np.float32)."
        )
    if array.ndim != 2 or array.shape[1] == 0:
        raise FeatureError(
            f"{name} must be [N, D] with one row per image, got shape {list(array.shape)}."
        )
    if array.shape[0] == 0:
        raise FeatureError(f"{name} is empty (shape {list(array.shape)}); at least one is needed.")
    with np.errstate(over="ignore", invalid="ignore"):  # the rest is told by the check of norms
        narrow = np.ascontiguousarray(array, dtype=np.float32)
    if narrow is not array and max(narrow.max(), -narrow.min()) == np.inf:
        large = np.flatnonzero((np.isinf(narrow) & np.isfinite(array)).any(axis=1))
        if large.size:
            raise FeatureError(
                f"{name} row {large[0]} holds numbers beyond float32's largest, 3.4e38 "
                f"({counted(large.size, 'such row')} of {len(array):,}). Scale all features down "
                "by one factor, or find out why the model gave them."
            )
    return narrow


def check_dimensions(query: Features, gallery: Features) -> None:
    """Both must have the same feature size."""
    if query.shape[1] != gallery.shape[1]:
        raise FeatureError(
            f"query_features has {counted(query.shape[1], 'number')} per row and gallery_features "
            f"has {gallery.shape[1]}. Both must come from the same model."
        )


def check_norms(square_norms: npt.NDArray[np.float64], name: str, *, cosine: bool) -> None:
    """Name the first row that holds NaN or infinity, or is zero where an angle is needed."""
    bad = np.flatnonzero(~np.isfinite(square_norms))
    if bad.size:
        raise FeatureError(
            f"{name} row {bad[0]} holds NaN or infinity ({counted(bad.size, 'such row')} of "
            f"{len(square_norms):,}). Find out why the model gave them, or leave those rows out."
        )
    if cosine:
        bad = np.flatnonzero(square_norms == 0)
        if bad.size:
            raise FeatureError(
                f"{name} row {bad[0]} is a zero vector ({counted(bad.size, 'such row')} of "
                f"{len(square_norms):,}), which has no cosine. Leave those rows out, "
                'or use metric="euclidean".'
            )


def check_labels(labels: npt.ArrayLike, name: str, length: int, of: str) -> Labels:
    """``labels`` as int64 [length]."""
    array = _as_array(labels, name)
    if array.ndim != 1 or len(array) != length:
        raise FeatureError(
            f"{name} must have one number for each of the {length} rows of {of}, "
            f"got shape {list(array.shape)}."
        )
    if array.dtype.kind in "US" or any(isinstance(label, str) for label in array.flat[:1]):
        raise FeatureError(f"{name} must be whole numbers, got text. {_numbered(array, name)}")
    if not np.issubdtype(array.dtype, np.integer):
        raise FeatureError(
            f"{name} must be whole numbers, got dtype {array.dtype}. "
            "Convert them with .astype(np.int64)."
        )
    return array.astype(np.int64, copy=False)


def _numbered(texts: npt.NDArray[Any], name: str) -> str:
    """How text ids become numbers, the same on both sides, and -1 and 0 keep what they mean."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        texts.astype(np.int64)
        return f"They are numbers in quotes: convert them with {name}.astype(np.int64)."
    side, _, kind = name.partition("_")
    if side not in ("query", "gallery") or kind not in ("pids", "camids"):
        return "Give each text a number: np.unique(texts, return_inverse=True)[1] + 1."
    q, g = f"query_{kind}", f"gallery_{kind}"
    special = " Then give -1 to what is junk and 0 to distractors, if there are." * (kind == "pids")
    return (
        f"Number the texts of both sides together: n = np.unique(np.concatenate([{q}, {g}]), "
        f"return_inverse=True)[1] + 1; {q}, {g} = n[:len({q})], n[len({q}):].{special}"
    )


def check_choice(value: Any, name: str, allowed: tuple[Any, ...]) -> None:
    """``value`` must be one of ``allowed``."""
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise FeatureError(f"{name} must be one of {choices}, got {value!r}.")


def check_count(value: Any, name: str, least: int = 1) -> int:
    """``value`` must be a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise FeatureError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return int(value)


def check_best(k: Any, gallery: Features) -> int:
    """``k`` must be a whole number of at least 1, and the gallery have so many rows."""
    if check_count(k, "k") > len(gallery):
        raise FeatureError(
            f"k is {k}, but the gallery has {counted(len(gallery), 'row')}. Use a smaller k."
        )
    return int(k)
