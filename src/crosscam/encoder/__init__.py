"""The one model of the field: pictures in, unit vectors out.

    encoder = crosscam.Encoder.load("models/people")
    vectors = encoder(["a.jpg", "b.png"])            # float32 [2, D], length one
    vectors[0] @ vectors[1]                          # cosine

An encoder is the folder that ``crosscam export`` wrote (:mod:`crosscam.card` says what is
in it) or, where PyTorch is installed, a run folder.  Pictures are decoded and resized by
:mod:`crosscam.image`, as they are in training and evaluation; the rest is inside the encoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from crosscam.card import CARD, Card, TrainedOn, is_encoder
from crosscam.encoder.progress import bar
from crosscam.encoder.runtimes import (
    Pictures,
    Runtime,
    Vectors,
    choose,
    open_runtime,
    require_native,
    torch_runtime,
)
from crosscam.errors import CheckpointError, DataError, ImageError, InputError
from crosscam.image import Preprocess
from crosscam.models import models, resolve
from crosscam.processors import cores
from crosscam.wording import counted, did_you_mean, first_lines

if TYPE_CHECKING:
    from crosscam.embedder import Embedder

__all__ = ["CARD", "Card", "Encoded", "Encoder", "TrainedOn", "is_encoder"]


@dataclass(frozen=True)
class Encoded:
    """Some of the pictures that a stream was given.

    ``rows`` are the places of the pictures in what was given, from 0; those of ``failed`` are
    missing from it.
    """

    rows: npt.NDArray[np.int64]  # [n]
    vectors: Vectors  # [n, D]
    failed: tuple[tuple[int, str], ...] = ()  # place, and what is wrong


@dataclass(frozen=True)
class Encoder:
    """Turns pictures into unit vectors [N, D] float32.

    Safe to be called by several threads.  A row does not depend on the other pictures of a call,
    beyond the last bits.

    Args:
        card: where it comes from and what it may be used for.
        runtime: what computes.
        threads: processor threads, for decoding as for computing.
    """

    card: Card
    runtime: Runtime
    threads: int

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        runtime: Literal["auto", "openvino", "onnxruntime", "torch"] = "auto",
        device: str = "auto",
        threads: int = 0,
        precision: Literal["float32", "native"] = "float32",
    ) -> Encoder:
        """The encoder of a folder; its files must have the hashes of the card.

        Args:
            path: folder of an encoder or the name of a model (:mod:`crosscam.models`), or a
                finished run (needs PyTorch).
            runtime: what computes; auto is the quickest that is installed.
            device: cpu, cuda, cuda:0, or auto: a GPU if the runtime has one.
            threads: processor threads; 0 takes all.
            precision: of the numbers in between.  float32 gives the vectors of the network on
                every machine, up to the bound of ``card.BOUNDS``.  native, for fp16 encoders,
                takes the 16 bits that the processor is quickest with (bfloat16, float16), if it
                is: up to twice as fast, and up to ``card.NATIVE_BOUND`` away.

        Raises:
            CheckpointError: no encoder there, or one that is incomplete, changed or unreadable.
            MissingExtraError: the runtime is not installed.
        """
        if threads < 0:
            raise InputError(f"threads must be 0 (all) or more, got {threads}.")
        if precision not in ("float32", "native"):
            raise InputError(f"precision must be float32 or native, got {precision!r}.")
        native = precision == "native"
        folder = resolve(path)
        if is_encoder(folder) or not (folder / "recipe.yaml").is_file():
            try:
                card: Card | None = Card.read(folder)
            except CheckpointError as error:
                if folder.exists():
                    raise
                near = did_you_mean(str(path), (model.name for model in models()))
                raise CheckpointError(f"{error}{near}") from error
        else:
            card = None
        if card is not None:
            card.verify(folder)
            if native:
                require_native(card)
            if card.format != "torch":
                opened = open_runtime(
                    folder, card, runtime=runtime, device=device, threads=threads, native=native
                )
                return cls(card, opened, threads or cores())
        choose(card.format if card else "torch", runtime, device)
        from crosscam import deployed

        model, card = deployed.load(folder, card, device=device)
        if native:
            require_native(card)
        where = str(next(model.method.parameters()).device) if model.method else "cpu"
        opened = torch_runtime(model.function, device=where, threads=threads, native=native)
        return cls(card, opened, threads or cores())

    @property
    def preprocess(self) -> Preprocess:
        """Size and interpolation of the pictures; mean and std are inside."""
        return self.card.preprocess

    @property
    def hash(self) -> str:
        """Tells one encoder from another, in hex."""
        return self.card.hash

    @property
    def dim(self) -> int:
        """Length D of a vector."""
        return self.card.dim

    @property
    def name(self) -> str:
        """What the encoder is called."""
        return self.card.name

    @property
    def metric(self) -> Literal["cosine", "euclidean"]:
        """How vectors are compared."""
        return self.card.metric

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        """Entries of the vector that describe a part of the body: name -> (first, last + 1)."""
        return dict(self.card.parts)

    def __call__(self, images: Any) -> Vectors:
        """Unit vectors [N, D] of one or several pictures; one picture gives [1, D].

        Args:
            images: a picture or any sequence of them: a path, the bytes of a file, a Pillow
                image, or an array or tensor (uint8; [h, w, 3] RGB, [h, w, 4] RGBA, [h, w] gray;
                tensors also [3, h, w]).  Arrays and tensors of one axis more are batches.
                Channels are RGB: of OpenCV's pictures give ``frame[:, :, ::-1]``.

        Raises:
            ImageError: a picture cannot be used; the message says which and why.
        """
        parts = []
        for some in self.stream(_several(images)):
            if some.failed:
                place, why = some.failed[0]
                raise ImageError(f"picture {place}: {why}")
            parts.append(some.vectors)
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def embed(self, images: Any, /) -> Vectors:
        """As calling the encoder; the name by which a gallery asks."""
        return self(images)

    def files(self, paths: Sequence[str | Path], *, progress: bool = False) -> Vectors:
        """Vectors [N, D] of picture files, in their order.

        Raises:
            DataError: files cannot be used; the message names up to five and counts them.
        """
        vectors = np.empty((len(paths), self.dim), np.float32)
        failed: list[str] = []
        with bar(progress, len(paths)) as advance:
            for some in self.stream(paths):
                vectors[some.rows] = some.vectors
                failed += [why for _, why in some.failed]
                advance(len(some.rows) + len(some.failed))
        if failed:
            raise DataError(
                f"{len(failed):,} of {counted(len(paths), 'picture')} cannot be used:"
                f"{first_lines(failed)}\nRepair or remove them."
            )
        return vectors

    def stream(self, images: Iterable[Any], *, batch: int = 0) -> Iterator[Encoded]:
        """Vectors of any number of pictures, some at a time and in order, while others are decoded.

        Pictures that cannot be used are named in ``failed`` and left out.  Memory: at most
        ``2 * (threads + together)`` batches of decoded pictures are waiting, so with two
        threads and the usual batch of 16 at 256x128 less than 13 MB, and for each thread what the
        runtime needs for a batch.

        Args:
            images: pictures as for calling the encoder, one each; may be a generator.
            batch: pictures that are computed together; 0 takes what the runtime does best.
        """
        runtime = self.runtime
        size = batch or runtime.batch
        source = enumerate(images)
        waiting: deque[Future[Encoded]] = deque()
        limit = 2 * (self.threads + runtime.together)

        spare: deque[Pictures] = deque()  # memory that was used: touching new pages costs time

        def load(some: list[tuple[int, Any]]) -> _Loaded:
            try:
                place = spare.pop()
            except IndexError:
                place = np.empty((size, *self.preprocess.size, 3), np.uint8)
            return self._load(some, place)

        def compute(loaded: Future[_Loaded]) -> Encoded:
            rows, place, failed = loaded.result()
            vectors = self.pictures(place[: len(rows)])
            spare.append(place)
            return Encoded(np.array(rows, np.int64), vectors, tuple(failed))

        with (
            ThreadPoolExecutor(self.threads, "decode") as decoding,
            ThreadPoolExecutor(runtime.together, "encode") as encoding,
        ):
            try:
                while some := list(islice(source, size)):
                    waiting.append(encoding.submit(compute, decoding.submit(load, some)))
                    if len(waiting) >= limit:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def pictures(self, pictures: Pictures) -> Vectors:
        """Unit vectors [N, D] of pictures that are decoded and have the encoder's size.

        Args:
            pictures: uint8 [N, H, W, 3], RGB; computed in one call.
        """
        shape = (*self.preprocess.size, 3)
        if pictures.dtype != np.uint8 or pictures.shape[1:] != shape:
            raise InputError(
                f"pictures must be uint8 [N, {shape[0]}, {shape[1]}, 3] RGB, got {pictures.dtype} "
                f"{list(pictures.shape)}."
            )
        if len(pictures) == 0:
            return np.zeros((0, self.dim), np.float32)
        try:
            vectors = self.runtime(pictures)
        except Exception as error:  # each runtime has its own ways to fail
            said = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{self.card.name} cannot be run by {self.runtime.name} on "
                f"{counted(len(pictures), 'picture')} ({said}). Export it again with this version."
            ) from error
        if vectors.shape != (len(pictures), self.dim):
            raise CheckpointError(
                f"{self.card.name} gives {list(vectors.shape)} for "
                f"{counted(len(pictures), 'picture')}, and its card says {self.dim} numbers each. "
                "The card belongs to another encoder."
            )
        return vectors

    def embedder(self) -> Embedder:
        """The encoder as what evaluation and search of the lab take."""
        from crosscam import embedder

        return embedder.of_encoder(self.card, self)

    def describe(self) -> str:
        """One line: what this is and what it was trained on."""
        return self.card.describe()

    def _load(self, some: list[tuple[int, Any]], place: Pictures) -> _Loaded:
        """Fill ``place`` from its start with the pictures that can be used."""
        rows: list[int] = []
        failed: list[tuple[int, str]] = []
        for row, image in some:
            try:
                self.preprocess.load(_plain(image), out=place[len(rows)])
                rows.append(row)
            except ImageError as error:
                failed.append((row, str(error)))
        return rows, place, failed


_Loaded = tuple[list[int], Pictures, list[tuple[int, str]]]
"""Places in what was given, memory that begins with their pictures, and what is wrong."""


def _several(images: Any) -> Iterable[Any]:
    """The pictures of an argument that may be one picture or several."""
    if isinstance(images, (str, Path, bytes, Image.Image)):
        return [images]
    if isinstance(images, np.ndarray) or _is_tensor(images):
        if images.ndim == 4:
            return list(images)
        return [images]
    if not isinstance(images, Iterable):
        raise ImageError(
            "pictures are paths, bytes, Pillow images, arrays or tensors, got "
            f"{type(images).__name__}."
        )
    return images


def _is_tensor(image: Any) -> bool:
    """A PyTorch tensor, told without importing PyTorch."""
    return type(image).__module__.partition(".")[0] == "torch" and hasattr(image, "detach")


def _plain(image: Any) -> Any:
    """A tensor as an array [h, w, C]; everything else as it is."""
    if not _is_tensor(image):
        return image
    array = image.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[2] not in (3, 4) and array.shape[0] in (3, 4):
        array = array.transpose(1, 2, 0)
    return array
