"""Features made better before the search: flip fusion, query expansion, database augmentation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crosscam.errors import FeatureError
from crosscam.retrieval.device import resolve_device
from crosscam.retrieval.inputs import (
    Features,
    check_best,
    check_count,
    check_dimensions,
    check_features,
)
from crosscam.retrieval.lists import Lists
from crosscam.retrieval.pairs import FeaturePairs
from crosscam.retrieval.parallel import thread_count
from crosscam.retrieval.protocols import unit_rows
from crosscam.retrieval.rank import DEFAULT_BLOCK, best_k
from crosscam.wording import counted

__all__ = ["augment_database", "expand_queries", "fuse_flip"]


def fuse_flip(features: npt.ArrayLike, mirrored: npt.ArrayLike) -> Features:
    """Test-time flip: the sum of the features of images and of their mirror images, unit length.

    Both are [N, D] as the model gives them, not brought to unit length before.  Returns [N, D].
    """
    plain = check_features(features, "features")
    flipped = check_features(mirrored, "mirrored")
    if plain.shape != flipped.shape:
        raise FeatureError(
            f"features and mirrored must be of the same images, got shapes {list(plain.shape)} "
            f"and {list(flipped.shape)}."
        )
    return unit_rows(plain + flipped, "features + mirrored")


def expand_queries(
    query_features: npt.ArrayLike,
    gallery_features: npt.ArrayLike,
    k: int,
    *,
    alpha: float = 0.0,
    threads: int | None = None,
    device: str = "cpu",
    block: int = DEFAULT_BLOCK,
) -> Features:
    """Each query replaced by the mean of itself and its k best gallery items, unit length [Q, D].

    ``alpha=0`` is average query expansion (Chum et al., Total Recall, ICCV 2007).  With alpha > 0
    a gallery item weighs max(cosine, 0)**alpha (Radenović et al., Fine-tuning CNN Image Retrieval
    with No Human Annotation, TPAMI 2019, alpha-weighted query expansion, alpha = 3); the query
    itself weighs 1.  Works on unit vectors, knows nothing of persons and cameras.
    """
    query = unit_rows(check_features(query_features, "query_features"), "query_features")
    gallery = unit_rows(check_features(gallery_features, "gallery_features"), "gallery_features")
    check_dimensions(query, gallery)
    check_best(k, gallery)
    return _blend_nearest(query, gallery, k, None, alpha, threads, device, block)


def augment_database(
    gallery_features: npt.ArrayLike,
    k: int,
    *,
    alpha: float = 0.0,
    threads: int | None = None,
    device: str = "cpu",
    block: int = DEFAULT_BLOCK,
) -> Features:
    """Each gallery item replaced by the mean of itself and its k nearest others, unit length.

    Database-side feature augmentation (Arandjelović and Zisserman, Three things everyone should
    know to improve object retrieval, CVPR 2012); ``alpha`` as in ``expand_queries``.
    """
    gallery = unit_rows(check_features(gallery_features, "gallery_features"), "gallery_features")
    if check_count(k, "k") >= len(gallery):
        raise FeatureError(
            f"k is {k}, but a gallery of {counted(len(gallery), 'row')} has "
            f"{counted(len(gallery) - 1, 'other')}. Use a smaller k."
        )
    n = len(gallery)
    itself = Lists(np.arange(n + 1), np.arange(n))
    return _blend_nearest(gallery, gallery, k, itself, alpha, threads, device, block)


def _blend_nearest(
    query: Features,
    gallery: Features,
    k: int,
    excluded: Lists | None,
    alpha: float,
    threads: int | None,
    device: str,
    block: int,
) -> Features:
    if not alpha >= 0:
        raise FeatureError(f"alpha must be 0 or larger, got {alpha!r}.")
    kernels, device = resolve_device(device)
    threads, block = thread_count(threads), check_count(block, "block")
    pairs = FeaturePairs(query, gallery, "cosine", kernels=kernels)
    rows, scores = best_k(
        pairs, k, excluded, kernels=kernels, threads=threads, block=block, device=device
    )
    weights = np.maximum(scores, 0) ** alpha if alpha else np.ones_like(scores)
    blended = query.astype(np.float64)
    for place in range(k):  # one neighbor at a time: k times less memory, and a fixed order
        blended += weights[:, place, None] * gallery[rows[:, place]]
    return unit_rows(blended.astype(np.float32), "the expanded features")
