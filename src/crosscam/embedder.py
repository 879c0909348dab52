"""Pictures to vectors: a run, an encoder or a classic descriptor, behind one interface.

PyTorch is imported when a run is loaded: descriptors and encoders do without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam.card import Card, is_encoder
from crosscam.classic import DESCRIPTORS
from crosscam.data.store import ImageStore
from crosscam.errors import CheckpointError
from crosscam.image import Preprocess
from crosscam.models import models, resolve
from crosscam.wording import did_you_mean, images_of

if TYPE_CHECKING:
    from crosscam.methods import Method
    from crosscam.recipe import Recipe

__all__ = ["Embedder", "load", "load_method", "of_encoder", "of_method"]

_CHUNK = 2048  # pictures decoded at a time: 201 MB at 256x128
_BATCH = 64

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedder:
    """Turns pictures into unit vectors [N, D] float32.

    ``function`` takes uint8 RGB pictures [N, H, W, 3] of the preprocessing's size.
    """

    name: str
    preprocess: Preprocess
    function: Callable[[npt.NDArray[np.uint8]], Vectors]
    metric: Literal["cosine", "euclidean"] = "cosine"
    ap: Literal["rank-precision", "trapezoid"] = "rank-precision"
    flip: bool = False  # the mirrored picture's features are added
    card: dict[str, Any] | None = None
    recipe: Recipe | None = None
    method: Method | None = None  # what computes the vectors, if it was learned

    def files(
        self,
        paths: Sequence[Path],
        *,
        progress: bool = False,
        failed: dict[int, str] | None = None,
    ) -> Vectors:
        """Vectors of picture files, [N, D].  Memory: 2,048 decoded pictures at a time.

        With ``failed``, pictures that cannot be decoded are noted there by their places, with what
        is wrong, and their rows mean nothing.

        Raises:
            DataError: files cannot be decoded; the message names them.
        """
        parts = []
        for start in range(0, len(paths), _CHUNK):
            some = paths[start : start + _CHUNK]
            bad: dict[int, str] | None = None if failed is None else {}
            store = ImageStore.build(some, self.preprocess, progress=progress, failed=bad)
            if failed is not None and bad:
                failed.update((start + row, why) for row, why in bad.items())
            parts.append(self.function(np.asarray(store.images)))
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    def describe(self) -> str:
        """One line: what this is and what it was trained on."""
        if self.card is None:
            return f"{self.name} (not learned)"
        on = self.card["trained_on"]
        size = images_of(on["images"], on["identities"])
        return f"{self.card['method']} trained on {on['title']} ({size})"


def load(source: str | Path, *, device: str = "auto", learned: bool = False) -> Embedder:
    """The embedder of a run folder, or "hsv" or "pixels" for a descriptor without learning.

    Args:
        source: the folder, or the name of a descriptor.
        device: where a run computes.
        learned: only a run will do, so that descriptors and encoders are not offered for one that
            is missing.

    Raises:
        CheckpointError: no such run, or one that is not finished.
    """
    if str(source) in DESCRIPTORS:
        descriptor = DESCRIPTORS[str(source)]

        def describe(pictures: npt.NDArray[np.uint8]) -> Vectors:
            starts = range(0, len(pictures), _BATCH)
            return np.concatenate([descriptor(pictures[i : i + _BATCH]) for i in starts])

        return Embedder(str(source), Preprocess(size=(128, 64)), describe)
    run = resolve(source)
    try:
        method, recipe, card = load_method(run)
    except CheckpointError as error:
        if learned or (run / "recipe.yaml").is_file() or is_encoder(run):
            raise
        names = [*DESCRIPTORS, *(model.name for model in models())]
        near = did_you_mean(str(source), names)
        raise CheckpointError(f"{error} Or one of: {', '.join(names)}.{near}") from error
    return of_method(method, recipe, name=str(source), device=device, card=card)


def load_method(run: Path) -> tuple[Method, Recipe, dict[str, Any]]:
    """(method with its weights, recipe, card) of a run folder.

    Raises:
        CheckpointError: no such run, or one that is not finished.
    """
    if is_encoder(run):
        raise CheckpointError(
            f"{run} is an encoder: the network alone, as it is deployed. Give the run it was "
            "exported from, the folder that `crosscam train` wrote."
        )
    if not (run / "recipe.yaml").is_file():
        raise CheckpointError(
            f"{run} is not a run folder (it has no recipe.yaml). Give the folder that `crosscam "
            "train` wrote."
        )
    from crosscam.recipe import parse
    from crosscam.training import checkpoint
    from crosscam.training.record import read_card

    recipe = parse(run / "recipe.yaml")
    card = read_card(run)
    weights = checkpoint.load_weights(run / "weights.safetensors")
    method = recipe.method.blank.build(card["num_classes"])
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{run}/weights.safetensors does not fit the method of its recipe: {error}"
        ) from error
    return method, recipe, card


def of_method(
    method: Method,
    recipe: Recipe,
    *,
    name: str = "",
    device: str = "auto",
    card: dict[str, Any] | None = None,
) -> Embedder:
    """The embedder of a method in memory, which is put into evaluation mode."""
    import torch

    from crosscam.methods import unit
    from crosscam.training.process import pick_device

    where = pick_device(device)
    method = method.to(where).eval()
    flip = recipe.test.flip

    @torch.inference_mode()
    def function(pictures: npt.NDArray[np.uint8]) -> Vectors:
        parts = []
        for start in range(0, len(pictures), _BATCH):
            some = torch.from_numpy(pictures[start : start + _BATCH]).to(where)
            images = recipe.preprocess.normalize_tensor(some)
            features = method.embed(images)
            if flip:
                features = unit(features + method.embed(images.flip(3)))
            parts.append(features.float().cpu().numpy())
        return np.concatenate(parts)

    return Embedder(
        name or recipe.method.name,
        recipe.test_preprocess,
        function,
        recipe.test.metric,
        recipe.test.ap,
        flip,
        card,
        recipe,
        method,
    )


def of_encoder(card: Card, function: Callable[[npt.NDArray[np.uint8]], Vectors]) -> Embedder:
    """An encoder as what evaluation and search take."""
    on = card.trained_on
    return Embedder(
        card.name,
        card.preprocess,
        function,
        card.metric,
        "rank-precision",
        card.flip,
        {
            **{k: card.training[k] for k in ("seed", "epochs") if k in card.training},
            "method": f"{card.method} ({card.format}, {card.precision})",
            "trained_on": {
                "title": on.title,
                "images": on.images or 0,
                "identities": on.identities or 0,
            },
        },
    )
