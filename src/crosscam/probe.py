"""A few pictures and their vectors, kept with an encoder, so that any later change shows.

``crosscam export`` writes ``probe.npz`` beside the encoder: eight rendered people as one
JPEG, and the vectors that the network itself gave for them.  Whoever decodes, resizes and runs
the same must get the same vectors, within the bound of the card's proof, whatever runtime,
processor or version does it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from crosscam.card import Card, file_entry
from crosscam.errors import CheckpointError, ImageError
from crosscam.image import Preprocess, decode

__all__ = ["FILE", "Probe", "people", "read", "write"]

FILE = "probe.npz"

_SHEET = 17  # people side by side in the picture that comes with the package
_COUNT = 8  # of them are kept

Pictures = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """What an encoder was given, and what it must give."""

    pictures: list[Pictures]  # each [h, w, 3], RGB, not yet resized
    vectors: Vectors  # [N, D], of the network that the encoder was made of


def people() -> list[Pictures]:
    """Seventeen different rendered people, uint8 [128, 64, 3]."""
    sheet = decode((resources.files("crosscam") / "assets" / "people.jpg").read_bytes())
    return np.split(sheet, _SHEET, axis=1)


def write(
    folder: Path, preprocess: Preprocess, reference: Callable[[Pictures], Vectors]
) -> dict[str, Any]:
    """Write the probe of an encoder; returns its size and hash, which the card keeps.

    Args:
        folder: of the encoder.
        preprocess: how it is fed.
        reference: the network: pictures [1, H, W, 3] to vectors [1, D].
    """
    jpeg = io.BytesIO()
    Image.fromarray(np.concatenate(people()[:_COUNT], axis=1)).save(jpeg, "JPEG", quality=90)
    crops = np.split(decode(jpeg.getvalue()), _COUNT, axis=1)
    vectors = np.concatenate([reference(preprocess.load(crop)[None]) for crop in crops])
    encoded = np.frombuffer(jpeg.getvalue(), np.uint8)
    np.savez(folder / FILE, jpeg=encoded, vectors=vectors.astype(np.float32))
    return file_entry(folder / FILE)


def read(folder: Path, card: Card) -> Probe | None:
    """The probe of an encoder, or None if its card knows of none.

    Raises:
        CheckpointError: it is missing, changed or of another encoder.
    """
    entry = card.proof.get("probe")
    if entry is None:
        return None
    path = folder / FILE
    if not path.is_file() or file_entry(path) != entry:
        raise CheckpointError(
            f"{path} is {'not the file that' if path.is_file() else 'missing:'} the card of "
            f"{card.name} lists. Copy the whole folder again, or export it again."
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            jpeg, vectors = arrays["jpeg"].tobytes(), arrays["vectors"]
        crops = np.split(decode(jpeg), len(vectors), axis=1)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, ImageError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Export it again.") from error
    if vectors.dtype != np.float32 or vectors.shape[1:] != (card.dim,):
        raise CheckpointError(
            f"{path} holds vectors {list(vectors.shape)}, and {card.name} has {card.dim} numbers. "
            "Export it again."
        )
    return Probe(crops, vectors)
