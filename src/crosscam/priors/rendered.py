"""The ground truth of rendered people as priors: masks, keypoints, surfaces and textures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crosscam.errors import DataError
from crosscam.files import sha256
from crosscam.priors import labels, store
from crosscam.synth import read_annotations, read_labels, read_texture
from crosscam.synth.person import texture_mask
from crosscam.types import BODY_PARTS, COCO17, Dataset, Prior, Sample
from crosscam.wording import counted

__all__ = ["CHART", "PRODUCER", "SIZE", "known_texels", "make"]

PRODUCER = "truth"

CHART = "crosscam"
"""How the body is unrolled in textures of rendered people, and in those learned from them."""

SIZE = (128, 64)
"""Height and width of label maps: half of what people are rendered at."""

_BLOCK = 256  # pictures


def make(folder: Path, dataset: Dataset, samples: Sequence[Sample], kind: Prior) -> store.PriorSet:
    """Write the priors of one kind of a rendered set into ``folder`` (no work if they are there).

    Raises:
        DataError: the set is not finished, or a picture is not of it.
    """
    home = dataset.root
    if not (home / "manifest.json").is_file():
        raise DataError(
            f"{home} has no manifest.json, so its people were not rendered by `crosscam synth` and "
            f"there is no ground truth of {kind.value}. Give a rendered set, or priors.root."
        )
    names = store.picture_names(samples, home)
    said: dict[str, object] = {"manifest": sha256(home / "manifest.json")}
    if kind is Prior.MASKS:
        said["size"] = list(SIZE)
        plan = _plan(kind, dataset, names, BODY_PARTS, SIZE, "uint8", said)
        return store.write(folder, plan, _maps(home, names))
    if kind is Prior.SURFACE:
        said["chart"] = CHART
        plan = _plan(kind, dataset, names, (), (*SIZE, 3), "uint8", said)
        return store.write(folder, plan, _maps(home, names, places=True))
    table = read_annotations(home)
    row_of = {str(name): i for i, name in enumerate(table["name"])}
    unknown = [name for name in names if name not in row_of]
    if unknown:
        more = len(unknown) - 1
        others = f" and {counted(more, 'other picture')}" if more else ""
        raise DataError(
            f"{home}/labels/annotations.npz has no row for '{unknown[0]}'{others}. Render the set "
            "again into a new folder."
        )
    rows = np.array([row_of[name] for name in names], np.int64)
    if kind is Prior.KEYPOINTS:
        plan = _plan(kind, dataset, names, COCO17, (len(COCO17), 3), "float16", said)
        return store.write(folder, plan, [_shares(table["keypoints"][rows])])
    several = bool((table["outfit"] > 0).any())
    wearers = [(int(table["pid"][r]), int(table["outfit"][r]) if several else None) for r in rows]
    people = sorted({w for w in wearers if w[0] > 0}, key=lambda w: (w[0], w[1] or 0))
    index = {who: i for i, who in enumerate(people)}
    plan = store.Plan(
        kind, PRODUCER, {**said, "chart": CHART}, dataset.title, tuple(names), (),
        (256, 256, 3), "uint8",
        tuple(index.get(w, -1) for w in wearers),
    )  # fmt: skip
    return store.write(folder, plan, (read_texture(home, *who)[0][None] for who in people))


def known_texels(side: int) -> npt.NDArray[np.bool_]:
    """Which texels of a texture [side, side] in ``CHART`` lie on the body, for the larger part."""
    valid = labels.shrink(texture_mask().astype(np.uint8), (side, side))
    return valid > 0


def _plan(
    kind: Prior,
    dataset: Dataset,
    pictures: Sequence[str],
    names: Sequence[str],
    shape: tuple[int, ...],
    dtype: str,
    parameters: dict[str, object],
) -> store.Plan:
    return store.Plan(
        kind, PRODUCER, parameters, dataset.title, tuple(pictures), tuple(names), shape, dtype
    )


def _maps(
    home: Path, names: Sequence[str], places: bool = False
) -> Iterator[npt.NDArray[np.uint8]]:
    def one(name: str) -> npt.NDArray[np.uint8]:
        found = read_labels(home, name)
        return found.iuv if places else labels.shrink(found.part, SIZE)

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(names), _BLOCK):
            yield np.stack(list(pool.map(one, names[start : start + _BLOCK])))


def _shares(points: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
    """Pixels of the 256 x 128 picture to shares; hidden joints get half the visibility."""
    shares = np.asarray(points, np.float64)
    shares[..., 0] = shares[..., 0] / 128
    shares[..., 1] = shares[..., 1] / 256
    shares[..., 2] /= 2
    result: npt.NDArray[np.float16] = shares.astype(np.float16)
    return result
