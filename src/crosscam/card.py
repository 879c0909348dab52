"""What stands beside an encoder's weights: where it comes from, what it may be used for, and how
it is fed.

An encoder is a folder.  ``card.json`` names its other files, with size and SHA-256:

    onnx      encoder.onnx
    openvino  encoder.xml, encoder.bin
    torch     weights.safetensors, recipe.yaml

and an export adds ``probe.npz``, pictures with the vectors they gave (:mod:`crosscam.probe`).

All of them take the same: pictures uint8 [N, H, W, 3], RGB, N free, already decoded and resized
by :mod:`crosscam.image`; and give the same: features float32 [N, D] of unit length.  What stands
between is inside: (x / 255 - mean) / std, the network, the sum with the mirrored picture where
the card says so, and the division by the length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from crosscam.errors import CheckpointError, InputError
from crosscam.files import sha256, write_atomically
from crosscam.image import Preprocess
from crosscam.wording import counted, images_of

__all__ = [
    "BOUNDS",
    "CARD",
    "NATIVE_BOUND",
    "Card",
    "Format",
    "Precision",
    "TrainedOn",
    "is_encoder",
]

CARD = "card.json"
"""Name of the card in an encoder's folder."""

_VERSION = 1

Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]

BOUNDS: Mapping[str, float] = {"fp32": 1e-3, "fp16": 0.01, "int8": 0.3}
"""Largest length of the difference between two unit vectors that count as the same.

One is the network's own; the other is that of an encoder of this precision, computed in float32.
As cosines: 0.9999995, 0.99995 and 0.955.
"""

NATIVE_BOUND = 0.05
"""The same for fp16 encoders that are computed in 16 bits; as a cosine 0.99875."""

FILES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("encoder.onnx",),
    "openvino": ("encoder.xml", "encoder.bin"),
    "torch": ("weights.safetensors", "recipe.yaml"),
}
"""The files of each format; the first is the one that is opened."""

NO_FIGURES = ("root", "seconds", "model", "test", "trained")
"""What an evaluation says and a card leaves out, or says in places of its own."""


@dataclass(frozen=True)
class TrainedOn:
    """The data an encoder learned from.

    Args:
        title: name and variant of the data set.
        terms: what its owners allow.
        images: training pictures.
        identities: training persons.
        cameras: training cameras.
        start: where the weights stood before training ("random weights", the name of a file).
    """

    title: str
    terms: str
    images: int | None = None
    identities: int | None = None
    cameras: int | None = None
    start: str = "random"


@dataclass(frozen=True)
class Card:
    """What a user of an encoder must know; all of it plain values.

    Args:
        name: what the encoder is called.
        method: how it was trained ("baseline"), or what it is.
        recipe: the settings it was trained with, nested as in recipe.yaml; empty where unknown.
        paper: title and identifier of the method's paper.
        trained_on: the data, and its terms.
        license: license of the weights, as an SPDX identifier or in words.
        dim: feature size D.
        metric: how features are compared.
        preprocess: size, interpolation, mean and std of the RGB channels.
        flip: features of the mirrored picture are added before normalizing.
        format: onnx, openvino or torch.
        precision: fp32, fp16 or int8.
        files: name -> {"bytes": size, "sha256": hex}.
        proof: how the encoder was compared with the network it was made of.
        figures: measured results, each with data, protocol and AP rule.
        limits: what it is not good for, in sentences.
        parts: entries of the vector that describe a part of the body, name -> (first, last + 1).
        crosscam: version that wrote the card.
        training: the card of the training run, without figures.
    """

    name: str
    method: str
    trained_on: TrainedOn
    license: str
    dim: int
    preprocess: Preprocess
    format: Format
    precision: Precision
    files: Mapping[str, Mapping[str, Any]]
    metric: Literal["cosine", "euclidean"] = "cosine"
    flip: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""
    proof: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Mapping[str, Any], ...] = ()
    limits: tuple[str, ...] = ()
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    crosscam: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Names the encoder, in hex: features of two that differ in it do not mix.

        SHA-256 over what decides the features: the files, the preprocessing and the flip rule.
        """
        files = sorted((name, str(entry["sha256"])) for name, entry in self.files.items())
        decides = [self.format, self.precision, files, self.preprocess.to_dict(), self.flip]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order they are read by people."""
        values = {"card": _VERSION, **dataclasses.asdict(self)}
        values["preprocess"] = self.preprocess.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Any, where: str = "the card") -> Card:
        """The inverse of :meth:`to_dict`.

        Raises:
            CheckpointError: something is missing, unknown or of the wrong type; says what.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(
                f"{where} must be a JSON object, got {type(values).__name__}. {_AGAIN}"
            )
        version = values.get("card")
        if version != _VERSION:
            raise CheckpointError(
                f"{where} has the layout {version!r}, and this version of crosscam reads "
                f"{_VERSION}. " + ("Install a newer crosscam." if version else _AGAIN)
            )
        entries = {key: value for key, value in values.items() if key != "card"}
        fields = {f.name: f for f in dataclasses.fields(cls)}
        _names(entries, fields, where)
        on = entries["trained_on"]
        if not isinstance(on, Mapping):
            raise CheckpointError(f"{where}: trained_on must be an object, got {on!r}. {_AGAIN}")
        _names(on, {f.name: f for f in dataclasses.fields(TrainedOn)}, f"{where}, trained_on")
        try:
            entries["preprocess"] = Preprocess.from_dict(entries["preprocess"])
        except InputError as error:
            raise CheckpointError(f"{where}: {error} {_AGAIN}") from error
        entries["trained_on"] = TrainedOn(**on)
        for key in ("figures", "limits"):
            if not isinstance(entries.get(key, []), (list, tuple)):
                raise CheckpointError(f"{where}: {key} must be a list. {_AGAIN}")
            entries[key] = tuple(entries.get(key, ()))
        try:
            parts = {str(k): (int(a), int(b)) for k, (a, b) in entries.get("parts", {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{where}: parts must map names to [first, last + 1]. {_AGAIN}"
            ) from error
        entries["parts"] = parts
        card = cls(**entries)
        card._check(where)
        return card

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of an encoder's folder.

        Raises:
            CheckpointError: there is none, or it cannot be used; the message says why.
        """
        path = folder / CARD
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            what = f"not an encoder: it has no {CARD}" if folder.exists() else "not there"
            raise CheckpointError(
                f"{folder} is {what}. Give the folder that `crosscam export` wrote, or a name of "
                "`crosscam models list`."
            ) from error
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}). {_AGAIN}") from error
        return cls.from_dict(values, str(path))

    def write(self, folder: Path) -> None:
        """Write ``card.json``."""
        write_atomically(folder / CARD, json.dumps(self.to_dict(), indent=1) + "\n")

    def verify(self, folder: Path) -> None:
        """Compare the files of ``folder`` with the card.

        Raises:
            CheckpointError: a file is missing, has another size or another SHA-256.
        """
        for name, entry in self.files.items():
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing: {folder / CARD} lists it. {_AGAIN}")
            size = path.stat().st_size
            if size != entry["bytes"]:
                raise CheckpointError(
                    f"{path} has {size:,} bytes and its card says {entry['bytes']:,}: it is "
                    f"incomplete or another file. {_AGAIN}"
                )
            digest = sha256(path)
            if digest != entry["sha256"]:
                raise CheckpointError(
                    f"{path} has the SHA-256 {digest[:16]}... and its card says "
                    f"{entry['sha256'][:16]}...: it was changed or damaged. {_AGAIN}"
                )

    def describe(self) -> str:
        """One line: what this is and what it was trained on."""
        on = self.trained_on
        counts = ""
        if on.images and on.identities:
            counts = f" ({images_of(on.images, on.identities)})"
        if on.title == "not stated":
            return f"{self.name}: {self.method}, trained on data that are not stated"
        return f"{self.name}: {self.method} trained on {on.title}{counts}"

    def text(self) -> str:
        """The card as lines for a terminal."""
        pre = self.preprocess
        size = f"{pre.size[0]}x{pre.size[1]}"
        lines = [
            f"encoder   {self.name} ({self.format}, {self.precision}, {self.bytes / 1e6:.1f} MB)",
            f"method    {self.method}" + (f": {self.paper}" if self.paper else ""),
            f"data      {self.trained_on.title}; {self.trained_on.terms}",
            f"start     {self.trained_on.start}",
            f"license   {self.license}",
            f"feature   {self.dim} numbers, {self.metric}",
            f"pictures  RGB {size}, {pre.interpolation}, mean {list(pre.mean)}, "
            f"std {list(pre.std)}" + (", with the mirrored picture" if self.flip else ""),
        ]
        lines += [f"measured  {_figure(f)}" for f in self.figures]
        lines += [f"limit     {text}" for text in self.limits]
        if self.proof:
            lines.append(f"proof     {_proof(self.proof)}")
        lines.append(f"hash      {self.hash}")
        return "\n".join(lines)

    def _check(self, where: str) -> None:
        kinds: dict[str, Any] = {
            "name": str, "method": str, "license": str, "dim": int, "flip": bool, "recipe": Mapping,
            "paper": str, "proof": Mapping, "crosscam": str, "training": Mapping, "files": Mapping,
        }  # fmt: skip
        for key, kind in kinds.items():
            if not isinstance(getattr(self, key), kind):
                raise CheckpointError(f"{where}: {key} is {getattr(self, key)!r}. {_AGAIN}")
        on = self.trained_on
        if not all(isinstance(v, str) for v in (on.title, on.terms, on.start)):
            raise CheckpointError(f"{where}: title, terms and start are texts. {_AGAIN}")
        for key in ("images", "identities", "cameras"):
            count = getattr(on, key)
            whole = isinstance(count, int) and not isinstance(count, bool) and count >= 0
            if count is not None and not whole:
                raise CheckpointError(
                    f"{where}: trained_on, {key} must be a whole number or null, got {count!r}. "
                    f"{_AGAIN}"
                )
        if not all(isinstance(f, Mapping) for f in self.figures):
            raise CheckpointError(f"{where}: every figure is an object. {_AGAIN}")
        choices = {
            "format": Format,
            "precision": Precision,
            "metric": Literal["cosine", "euclidean"],
        }
        for key, choice in choices.items():
            if getattr(self, key) not in get_args(choice):
                raise CheckpointError(
                    f"{where}: {key} must be one of {', '.join(get_args(choice))}, "
                    f"got {getattr(self, key)!r}. {_AGAIN}"
                )
        if self.dim < 1:
            raise CheckpointError(f"{where}: dim must be 1 or more, got {self.dim}. {_AGAIN}")
        lacking = [name for name in FILES[self.format] if name not in self.files]
        if lacking:
            raise CheckpointError(f"{where}: files lacks {', '.join(lacking)}. {_AGAIN}")
        for name, entry in self.files.items():
            pure = PurePosixPath(name)
            inside = not pure.is_absolute() and ".." not in pure.parts and "\\" not in name
            fits = (
                isinstance(entry, Mapping)
                and isinstance(entry.get("bytes"), int)
                and re.fullmatch(r"[0-9a-f]{64}", str(entry.get("sha256")))
            )
            if not inside or not fits:
                raise CheckpointError(
                    f"{where}: files must give names inside the folder with bytes and sha256, got "
                    f"{name!r}: {entry!r}. {_AGAIN}"
                )


_AGAIN = "Copy the whole folder again, or export it again."


def is_encoder(path: str | Path) -> bool:
    """Whether ``path`` is a folder that ``crosscam export`` wrote (and no run folder)."""
    try:
        values = json.loads((Path(path) / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "card" in values


def file_entry(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the card lists them."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _names(entries: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> None:
    needed = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    lacking, unknown = sorted(needed - set(entries)), sorted(set(entries) - set(fields))
    if lacking or unknown:
        what = [f"lacks {', '.join(lacking)}"] if lacking else []
        what += [f"has the unknown {', '.join(unknown)}"] if unknown else []
        raise CheckpointError(f"{where} {' and '.join(what)}. {_AGAIN}")


def _figure(figure: Mapping[str, Any]) -> str:
    parts = [str(figure.get("data", "?")), str(figure.get("variant") or "")]
    name = figure.get("title") or " ".join(p for p in parts if p)
    values = [
        f"{text} {figure[key]:.1%}"
        for key, text in (("rank1", "rank-1"), ("mAP", "mAP"), ("mINP", "mINP"))
        if isinstance(figure.get(key), (int, float))
    ]
    how = [str(figure[key]) for key in ("ap", "precision") if figure.get(key)]
    if figure.get("same_camera") == "keep":
        how.append("no camera rule")
    if isinstance(figure.get("n_queries"), int):
        how.append(counted(figure["n_queries"], "query", "queries"))
    changes = [
        f"{text} {figure[key]:+.2%}"
        for key, text in (("rank1_change", "rank-1"), ("mAP_change", "mAP"))
        if isinstance(figure.get(key), (int, float))
    ]
    if changes:
        how.append(f"{', '.join(changes)} from the network in float32")
    return f"{name}: {', '.join(values)}" + (f" ({', '.join(how)})" if how else "")


def _proof(proof: Mapping[str, Any]) -> str:
    text = (
        f"batches of {', '.join(map(str, proof.get('batches', ())))} against "
        f"{proof.get('against', '?')}: {_agreed(proof)}"
    )
    native = proof.get("native")
    if isinstance(native, Mapping):
        text += f"; computed in {native.get('computed_in', '?')}: {_agreed(native)}"
    cosine = proof.get("cosine_to_network")
    if isinstance(cosine, Mapping):
        text += (
            f"; on {cosine.get('on', '?')}: mean cosine {cosine.get('mean', '?')}, least "
            f"{cosine.get('least', '?')}"
        )
    return text


def _agreed(values: Mapping[str, Any]) -> str:
    return (
        f"largest distance {values.get('largest_distance', '?')} (bound "
        f"{values.get('bound', '?')}), least cosine {values.get('least_cosine', '?')}"
    )
