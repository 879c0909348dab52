"""Encoders to examine: one that is trained, and others written by hand with one fault each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from crosscam.card import Card, TrainedOn, file_entry
from crosscam.files import sha256
from crosscam.image import Preprocess
from crosscam.recipe import parse
from crosscam.training import loop

SIZE = (32, 16)


def red_person(pid: int, camid: int, shot: int) -> npt.NDArray[np.uint8]:
    """A picture [64, 32, 3]: who it is stands in the red channel alone, in stripes and levels."""
    look = np.random.default_rng([21, pid])
    view = np.random.default_rng([22, pid, camid, shot])
    rows = np.arange(64)[:, None]
    picture = view.uniform(0, 255, (64, 32, 3))
    picture[..., 1:] = view.uniform(30, 225, 2) + view.normal(0, 30, (64, 32, 2))
    for half, columns in ((0, slice(0, 16)), (1, slice(16, 32))):
        level, depth, cycles = look.uniform(70, 180), look.uniform(20, 70), look.integers(3, 16)
        wave = np.sin(2 * np.pi * (cycles * rows / 64 + view.uniform()))
        picture[:, columns, 0] = level + depth * wave + half
    picture[..., 0] += view.normal(0, 6, (64, 32))
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_people(folder: Path, pids: Sequence[int], *, swapped: bool) -> Path:
    """Pictures of several people by two cameras, named as in Market-1501."""
    folder.mkdir(parents=True)
    for pid in pids:
        for camid in (1, 2):
            for shot in (0, 1):
                picture = red_person(pid, camid, shot)[..., :: -1 if swapped else 1]
                name = f"{pid:04d}_c{camid}s1_{shot:06d}_00.png"
                Image.fromarray(np.ascontiguousarray(picture)).save(folder / name)
    return folder


def train_on_bgr(folder: Path) -> Path:
    """A run that learned people from pictures with red and blue swapped."""
    data = folder / "data"
    write_people(data / "bounding_box_train", range(1, 25), swapped=True)
    write_people(data / "query", range(25, 27), swapped=True)
    write_people(data / "bounding_box_test", range(25, 27), swapped=True)
    for file in (data / "query").glob("*c2*"):
        file.unlink()
    for file in (data / "bounding_box_test").glob("*c1*"):
        file.unlink()
    recipe = parse(
        None,
        [
            f"data.root={data}", "data.partial=true", "preprocess.size=[64,32]",
            "augment.pad=2", "augment.erase=0", "sampler.people=8", "sampler.images=4",
            "method.backbone.name=resnet18", "method.backbone.width=0.125",
            "method.center=0", "optimizer.lr=0.004", "schedule.epochs=30", "schedule.warmup=none",
            "schedule.kind=cosine", "engine.precision=fp32", "engine.threads=1",
        ],
    )  # fmt: skip
    loop.train(recipe, folder / "run", device="cpu", progress=False)
    return folder / "run"


def changed_run(run: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run with other weights, whose card agrees with them."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(run, to, ignore=shutil.ignore_patterns("checkpoints"))
    weights = load_file(to / "weights.safetensors")
    change(weights)
    save_file(weights, to / "weights.safetensors")
    card = json.loads((to / "card.json").read_text())
    card["weights_sha256"] = sha256(to / "weights.safetensors")
    (to / "card.json").write_text(json.dumps(card))
    return to


def changed_onnx(encoder: Path, to: Path, **constants: npt.NDArray[Any]) -> Path:
    """A copy of an ONNX encoder with other constants, whose card agrees with them."""
    shutil.copytree(encoder, to)
    model = onnx.load(str(to / "encoder.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    onnx.save(model, str(to / "encoder.onnx"))
    card = Card.read(to)
    files = {**card.files, "encoder.onnx": file_entry(to / "encoder.onnx")}
    replace(card, files=files).write(to)
    return to


Node = tuple[str, list[str], list[str], dict[str, Any]]


def by_hand(
    folder: Path,
    *nodes: Node,
    dim: int = 96,
    unit: bool = True,
    cells: bool = True,
    preprocess: Preprocess = Preprocess(SIZE),  # noqa: B008
    constants: dict[str, npt.NDArray[Any]] | None = None,
    name: str = "hand",
    **card: Any,
) -> Path:
    """An ONNX encoder: colors averaged over a grid of 8 x 4 cells, as "cells" [N, 96].

    Without ``cells`` these are left out, and nodes begin at "planes" [N, 3, H, W].
    ``nodes`` (kind, inputs, outputs, attributes) make "last" [N, dim] of it; none takes the cells.
    """
    height, width = preprocess.size
    shift, scale = preprocess.shift_and_scale()
    cell = {"kernel_shape": [height // 8, width // 4], "strides": [height // 8, width // 4]}
    steps: list[Node] = [
        ("Cast", ["pictures"], ["float"], {"to": TensorProto.FLOAT}),
        ("Sub", ["float", "shift"], ["shifted"], {}),
        ("Mul", ["shifted", "scale"], ["scaled"], {}),
        ("Transpose", ["scaled"], ["planes"], {"perm": [0, 3, 1, 2]}),
        *(
            [("AveragePool", ["planes"], ["grid"], cell), ("Flatten", ["grid"], ["cells"], {})]
            if cells
            else []
        ),
        *(nodes or [("Identity", ["cells"], ["last"], {})]),
    ]
    if unit:
        steps += [
            ("ReduceL2", ["last", "one"], ["norm"], {}),
            ("Max", ["norm", "least"], ["length"], {}),
            ("Div", ["last", "length"], ["features"], {}),
        ]
    else:
        steps.append(("Identity", ["last"], ["features"], {}))
    values = {
        "shift": shift, "scale": scale, "one": np.array([1], np.int64),
        "least": np.array(1e-12, np.float32), **(constants or {}),
    }  # fmt: skip
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(kind, a, b, **more) for kind, a, b, more in steps],
        "hand",
        [info("pictures", TensorProto.UINT8, ["batch", height, width, 3])],
        [info("features", TensorProto.FLOAT, ["batch", dim])],
        [numpy_helper.from_array(v, k) for k, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True)
    onnx.save(model, str(folder / "encoder.onnx"))
    made = Card(
        name=name,
        method="cells of color",
        trained_on=TrainedOn("nothing", "none"),
        license="Apache-2.0",
        dim=dim,
        preprocess=preprocess,
        format="onnx",
        precision="fp32",
        files={"encoder.onnx": file_entry(folder / "encoder.onnx")},
        **card,
    )
    made.write(folder)
    return folder
