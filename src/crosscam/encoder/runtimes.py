"""What computes an encoder's features: OpenVINO, ONNX Runtime or PyTorch, behind one call.

Each is imported only when it is used, so that an ONNX or OpenVINO encoder needs no PyTorch.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crosscam.card import FILES, Card
from crosscam.errors import CheckpointError, InputError, MissingExtraError
from crosscam.optional import import_onnxruntime, import_openvino
from crosscam.processors import cores

__all__ = [
    "Runtime",
    "installed",
    "of_unit_length",
    "open_runtime",
    "require_native",
    "torch_runtime",
]

Pictures = npt.NDArray[np.uint8]  # [N, H, W, 3], RGB, resized
Vectors = npt.NDArray[np.float32]  # [N, D]
Name = Literal["openvino", "onnxruntime", "torch"]

_ABLE: dict[str, tuple[Name, ...]] = {  # to run a format, the quickest on a CPU first
    "onnx": ("openvino", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": ("torch",),
}


@dataclass(frozen=True)
class Runtime:
    """A network that is ready to be called.

    Args:
        name: openvino, onnxruntime or torch.
        device: cpu, or the GPU it runs on.
        threads: processor threads that one call uses.
        together: calls that may run at the same time and gain from it.
        batch: pictures per call that it is quickest with.
        function: uint8 [N, H, W, 3] to float32 [N, D].
        precision: of the numbers in between: float32, bfloat16 or float16.
    """

    name: str
    device: str
    threads: int
    together: int
    batch: int
    function: Callable[[Pictures], Vectors]
    precision: str = "float32"

    def __call__(self, pictures: Pictures) -> Vectors:
        return self.function(pictures)


def choose(format: str, runtime: str, device: str) -> str:
    """The runtime for an encoder: the quickest that is installed, unless one is asked for.

    An ONNX file is run on a CPU by OpenVINO or, without it, by ONNX Runtime; on a GPU by ONNX
    Runtime.

    Raises:
        InputError: the runtime that is asked for cannot run this format.
        MissingExtraError: none that can is installed.
    """
    order: tuple[str, ...] = _ABLE[format]
    if format == "onnx" and device.startswith("cuda"):
        order = ("onnxruntime",)
    if runtime != "auto":
        if runtime not in order:
            raise InputError(
                f"runtime '{runtime}' cannot run {_article(format)} encoder on {device}; use "
                f"{' or '.join(order)}, or auto."
            )
        order = (runtime,)
    for name in order:
        if find_spec(name) is not None:
            return name
    raise MissingExtraError(
        f"{_article(format)} encoder needs {' or '.join(order)}: "
        + ("pip install torch" if order == ("torch",) else "pip install 'crosscam[serve]'")
    )


def installed(format: str) -> list[Name]:
    """The runtimes here that can run an encoder of this format on a CPU."""
    return [name for name in _ABLE[format] if find_spec(name) is not None]


def of_unit_length(vectors: Vectors) -> Vectors:
    """Each of the vectors [N, D] over its length; one of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def require_native(card: Card) -> None:
    """Raise an ``InputError`` if the proof of an encoder does not hold for 16 bits."""
    if card.precision != "fp16":
        raise InputError(
            f"precision 'native' is for fp16 encoders, which were proven in 16 bits, and "
            f"{card.name} is {card.precision}. Use float32, or export with --precision fp16."
        )


def open_runtime(
    folder: Path, card: Card, *, runtime: str, device: str, threads: int, native: bool
) -> Runtime:
    """The encoder of ``folder``, an ONNX or OpenVINO file, ready to be called.

    It computes in float32, whatever the hardware would rather do: the vectors of one picture are
    compared for years, by machines of many kinds.  With ``native``, in the 16 bits that the
    processor is quickest with, if it is.

    Raises:
        CheckpointError: the files cannot be run; says what the runtime said.
        MissingExtraError, InputError: as :func:`choose`.
    """
    where = _device(card, runtime, device)
    name = choose(card.format, runtime, where)
    file = folder / FILES[card.format][0]
    threads = threads or cores()
    try:
        if name == "openvino":
            return _openvino(file, card, threads, native)
        if name == "onnxruntime":
            return _onnxruntime(file, card, where, threads)
    except Exception as error:  # each runtime has its own ways to fail
        first = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{file} cannot be opened by {name} ({first}). Copy the whole folder again, or export "
            "it again with this version."
        ) from error
    raise InputError(f"{card.name} is in torch format, which PyTorch runs.")


_BATCHES = (16, 8, 1)


def _openvino(file: Path, card: Card, threads: int, native: bool) -> Runtime:
    """A network for 16 pictures, one for 8 and one for 1, compiled when first needed.

    Fixed shapes run up to 1.5 times as fast as a free batch (``benchmarks/encode.py``), so
    pictures go through in sixteens; what is left fills up a smaller network by more than half, or
    goes one by one.  Each network that was needed holds weights of its own.
    """
    openvino = import_openvino()
    core = openvino.Core()
    hint = "f32"
    if native:
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        hint = "bf16" if "BF16" in able else "f16" if "FP16" in able else "f32"
    settings = {  # as many streams of one thread as there are threads: nothing waits for anything
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "INFERENCE_PRECISION_HINT": hint,
    }
    shape = [*card.preprocess.size, 3]
    lock = threading.Lock()
    compiled: dict[int, Any] = {}
    local = threading.local()

    def request(count: int) -> tuple[Any, Pictures]:
        made: dict[int, tuple[Any, Pictures]] = local.__dict__.setdefault("requests", {})
        if count not in made:
            with lock:
                if count not in compiled:
                    model = core.read_model(file)
                    place = model.input(0)
                    dims = [d.get_length() if d.is_static else None for d in place.partial_shape]
                    _require_input(dims[1:], place.element_type.to_string(), card)
                    model.reshape([count, *shape])
                    compiled[count] = core.compile_model(model, "CPU", settings)
                own = compiled[count].create_infer_request()
            made[count] = (own, own.get_input_tensor().data)
        return made[count]

    def run(pictures: Pictures) -> Vectors:
        own, place = request(len(pictures))
        # Copied into memory of the request's own: lending it ours (share_inputs) sometimes stops
        # for ever when several threads do so (OpenVINO 2026.4).
        place[...] = pictures
        own.start_async()
        own.wait()
        return np.array(own.get_output_tensor().data, np.float32)

    def function(pictures: Pictures) -> Vectors:
        pictures = np.ascontiguousarray(pictures)
        parts, done = [], 0
        for count in _BATCHES:
            while len(pictures) - done > count // 2:
                some = pictures[done : done + count]
                whole = np.resize(some, (count, *some.shape[1:])) if len(some) < count else some
                parts.append(run(whole)[: len(some)])
                done += len(some)
        return np.concatenate(parts)

    request(1)  # a file that cannot be run is known now
    named = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[hint]
    return Runtime("openvino", "cpu", 1, threads, _BATCHES[0], function, named)


def _onnxruntime(file: Path, card: Card, device: str, threads: int) -> Runtime:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # calls run side by side in the threads that call
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        number = int(device.partition(":")[2] or 0)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": number}))
    session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    place = session.get_inputs()[0]
    source = place.name
    _require_input(place.shape[1:], {"tensor(uint8)": "u8"}.get(place.type, place.type), card)

    def function(pictures: Pictures) -> Vectors:
        return np.asarray(
            session.run(None, {source: np.ascontiguousarray(pictures)})[0], np.float32
        )

    if device != "cpu":
        return Runtime("onnxruntime", device, threads, 2, 64, function)
    return Runtime("onnxruntime", "cpu", 1, threads, 16, function)


def _require_input(shape: list[Any], kind: str, card: Card) -> None:
    """The graph must take what the card says, or a runtime may reshape it without a word."""
    expected = [*card.preprocess.size, 3]
    if list(shape) != expected or kind != "u8":
        raise ValueError(f"it takes {kind} [N, *{shape}], and its card says u8 [N, *{expected}]")


def torch_runtime(
    function: Callable[[Pictures], Vectors], *, device: str, threads: int, native: bool
) -> Runtime:
    """A network of the lab (``deployed.load``) as a runtime; ``native`` computes in 16 bits.

    ``threads`` holds for all of PyTorch in this process; 0 leaves them as they are.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cpu" and threads:
        torch.set_num_threads(threads)
    half = torch.bfloat16 if kind == "cpu" else torch.float16

    def call(pictures: Pictures) -> Vectors:
        with torch.autocast(kind, half, enabled=native):
            return function(pictures)

    precision = str(half if native else torch.float32).removeprefix("torch.")
    return Runtime("torch", device, torch.get_num_threads(), 1, 64, call, precision)


def _device(card: Card, runtime: str, device: str) -> str:
    """ "cpu" or "cuda:N"; auto is a GPU if the runtime that would use it is there with it."""
    if device == "cpu" or card.format == "openvino" or runtime == "openvino":
        if device not in ("cpu", "auto"):
            raise InputError(
                f"OpenVINO encoders run on the CPU, and device '{device}' was asked for. Use cpu, "
                "or an encoder in ONNX or torch format."
            )
        return "cpu"
    if device != "auto" and not (device == "cuda" or device.startswith("cuda:")):
        raise InputError(f"device '{device}' is not supported; use cpu, cuda, cuda:0 or auto.")
    there = False
    if find_spec("onnxruntime") is not None:
        there = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
    if device == "auto":
        return "cuda:0" if there else "cpu"
    if not there:
        raise InputError(
            f"device '{device}' was asked for, but the ONNX Runtime here has no CUDA ("
            f"{platform.machine()}): install onnxruntime-gpu, or use cpu."
        )
    return device


def _article(name: str) -> str:
    return {"onnx": "an ONNX", "openvino": "an OpenVINO", "torch": "a torch"}[name]
