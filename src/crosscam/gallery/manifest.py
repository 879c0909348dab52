"""What a gallery says of itself: its format, the model of its vectors, where they lie."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

import crosscam
from crosscam.errors import GalleryError
from crosscam.gallery.points import Quantization, Vectors
from crosscam.gallery.sighting import format_time

__all__ = ["Encoder", "Model", "model_of", "new_manifest", "require_manifest", "require_model"]

FORMAT = 1


class Encoder(Protocol):
    """What a gallery needs of a model.

    A model may also have ``name`` (words for people) and ``parts`` ({name: (first, last + 1)},
    the entries of the vector that describe a part of the body); results then say which parts
    matched.
    """

    @property
    def hash(self) -> str:
        """Tells one model from another, in hex."""

    @property
    def dim(self) -> int:
        """D."""

    def embed(self, images: Any, /) -> Vectors:
        """Unit vectors [N, D] float32 of N pictures, each uint8 [h, w, 3], RGB."""


@dataclass(frozen=True)
class Model:
    """What the vectors of a gallery come from."""

    hash: str
    dim: int
    name: str = ""
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, encoder: Encoder) -> Model:
        parts = {str(k): (int(a), int(b)) for k, (a, b) in
                 dict(getattr(encoder, "parts", None) or {}).items()}  # fmt: skip
        return cls(encoder.hash, encoder.dim, str(getattr(encoder, "name", "")), parts)

    @property
    def short(self) -> str:
        return self.hash.removeprefix("sha256:")[:16]


def new_manifest(model: Model, quantization: Quantization, now: float) -> dict[str, Any]:
    """Of an empty gallery made at ``now``, seconds since 1970 UTC."""
    return {
        "format": FORMAT,
        "made_by": f"crosscam {crosscam.__version__}",
        "made": format_time(round(now, 3)),
        "model": {
            "hash": model.hash,
            "dim": model.dim,
            "name": model.name,
            "parts": {k: list(v) for k, v in model.parts.items()},
        },
        "quantization": quantization,
        "points": f"points-{model.short}",
        "unerased": False,
    }


def model_of(manifest: dict[str, Any]) -> Model:
    """The model that a manifest names."""
    values = manifest["model"]
    parts = {k: (int(a), int(b)) for k, (a, b) in values.get("parts", {}).items()}
    return Model(values["hash"], int(values["dim"]), values.get("name", ""), parts)


def require_manifest(manifest: dict[str, Any], place: object) -> None:
    """``GalleryError`` unless a manifest is whole and of a format that is read here."""
    version = manifest.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise GalleryError(
            f"{place} has gallery format {version}, and this crosscam reads {FORMAT}. "
            + ("Install a newer crosscam." if newer else "It is not a gallery of crosscam.")
        )
    try:
        model = model_of(manifest)
        whole = (
            isinstance(model.hash, str)
            and model.dim > 0
            and re.fullmatch(r"points-[^/\\]*", manifest["points"]) is not None
            and manifest["quantization"] in ("none", "int8")
            and isinstance(manifest["unerased"], bool)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise GalleryError(
            f"the manifest of {place} (gallery.json) does not say what model its vectors are of, "
            "or where they are. Restore it from a backup, or make a new gallery of the pictures."
        )


def require_model(have: Model, given: Model, place: object) -> None:
    """``GalleryError`` unless two models are the same."""
    if have.hash == given.hash and have.dim == given.dim:
        return
    raise GalleryError(
        f"{place} holds vectors of the model {have.name or 'unnamed'} ({have.short}, {have.dim} "
        f"dimensions), but {given.name or 'the model given'} ({given.short}, {given.dim} "
        "dimensions) was given, and their vectors cannot be compared. Give the same model, or "
        "make all vectors again: crosscam gallery reembed."
    )
