"""Export proves what it writes, and leaves nothing behind when it cannot."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from crosscam import deployed, embedder, methods
from crosscam import export as exporting
from crosscam.card import FILES, NATIVE_BOUND, Card
from crosscam.data import datasets
from crosscam.encoder import Encoder
from crosscam.errors import CheckpointError, DataError, ExportError, InputError, MissingExtraError
from crosscam.export import BATCHES, BOUNDS, Statement, export, prove, wrap
from crosscam.image import Preprocess
from crosscam.recipe import parse

SIZE = (32, 16)


def _nothing_left(out: Path) -> bool:
    return not out.exists() and not [p for p in out.parent.iterdir() if "writing" in p.name]


# --- what is written ------------------------------------------------------------------------------


def test_the_graph_is_the_definition(written: Path, toy_run: Path) -> None:
    """(x / 255 - mean) / std, embed, the mirrored picture added, divided by the length."""
    import onnxruntime

    method, recipe, _ = embedder.load_method(toy_run)
    method.eval()
    pictures = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
    mean, std = (np.array(v) for v in (recipe.preprocess.mean, recipe.preprocess.std))
    images = torch.from_numpy(((pictures / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        both = method.embed(images) + method.embed(images.flip(3))
    expected = both.numpy() / np.linalg.norm(both.numpy(), axis=1, keepdims=True)
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    got = session.run(None, {"pictures": pictures})[0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_file_tells_nothing_of_the_machine(written: Path) -> None:
    data = written.read_bytes()
    for word in (b"/site-packages", b"forward", str(Path(exporting.__file__).parent).encode()):
        assert word not in data


def test_the_card_of_an_export(onnx_folder: Path) -> None:
    card = Card.read(onnx_folder)
    proof = card.proof
    assert proof["batches"] == [1, 2, 17]
    assert proof["runtimes"] == ["openvino", "onnxruntime"]
    assert proof["bound"] == BOUNDS["fp32"]
    assert 0 < proof["largest_distance"] < 1e-4
    assert proof["spread"] > 100 * proof["largest_distance"]
    names = sorted(p.name for p in onnx_folder.iterdir())
    assert names == ["card.json", "encoder.onnx", "probe.npz"]


def test_the_maker_states_what_only_he_knows(toy_run: Path, tmp_path: Path) -> None:
    said = Statement("people", "Apache-2.0", "ours", ("Not for cars.",))
    card = export(toy_run, tmp_path / "m", format="torch", statement=said)
    again = Card.read(tmp_path / "m")
    assert again == card
    assert (again.name, again.license, again.trained_on.terms) == ("people", "Apache-2.0", "ours")
    assert "Not for cars." in again.limits
    assert len(again.limits) > len(said.limits)


def test_figures_of_the_run_go_along_without_its_paths(toy_run: Path, tmp_path: Path) -> None:
    folder = toy_run / "evaluation" / "x"
    folder.mkdir(parents=True)
    figures = {"data": "x", "mAP": 0.5, "root": "/secret", "seconds": {}, "model": "m"}
    (folder / "evaluation.json").write_text(json.dumps(figures))
    try:
        card = export(toy_run, tmp_path / "m", format="torch")
    finally:
        (folder / "evaluation.json").unlink()
    assert card.figures == ({"title": "x", "data": "x", "mAP": 0.5},)
    assert "x: mAP 50.0%" in card.text()
    assert not any("Not measured" in limit for limit in card.limits)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_half_precision_keeps_half_the_bytes(
    toy_run: Path, onnx_folder: Path, tmp_path: Path, format: Any
) -> None:
    card = export(toy_run, tmp_path / "m", format=format, precision="fp16")
    name = FILES[format][-1]
    weights = (onnx_folder / "encoder.onnx").stat().st_size
    assert card.files[name]["bytes"] < 0.62 * weights
    assert card.proof["bound"] == BOUNDS["fp16"]
    assert card.proof["largest_distance"] < BOUNDS["fp16"]
    assert card.hash != Card.read(onnx_folder).hash
    if Encoder.load(tmp_path / "m", precision="native").runtime.precision == "float32":
        return  # a processor without 16-bit numbers proves nothing about them
    native = card.proof["native"]
    assert native["bound"] == NATIVE_BOUND
    assert card.proof["largest_distance"] < native["largest_distance"] < NATIVE_BOUND
    assert f"computed in {native['computed_in']}: largest distance" in card.text()


def _stem(path: Path, width: int = 16, mirrored: bool = False, **changes: Any) -> Path:
    """Normalization, one convolution as in OSNet and ResNet, and the means of its channels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    groups = changes.get("group", 1)
    how = {"kernel_shape": [7, 7], "strides": [2, 2], "pads": [3] * 4, "dilations": [1, 1]}
    constants = {
        "shift": np.array([120, 110, 100], np.float32),
        "scale": np.array([0.02, 0.03, 0.01], np.float32),
        "kernel": rng.normal(size=(6, 3 // groups, 7, 7)).astype(np.float32),
        "bias": rng.normal(size=6).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pictures"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "shift"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["c"], **{**how, **changes}),
        helper.make_node("Relu", ["c"], ["r"]),
    ]
    if mirrored:
        nodes.append(helper.make_node("Conv", ["planes", "kernel"], ["d"], **how))
    shape = ["n", 32, width, 3]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 6, None, None])
            for n in ("r", "d")[: 1 + mirrored]
        ],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("width", [2, 16, 22])
def test_pairs_of_pixels_give_the_sums_of_single_ones(tmp_path: Path, width: int) -> None:
    import onnxruntime

    pictures = np.random.default_rng(8).integers(0, 256, (3, 32, width, 3), np.uint8)
    path = _stem(tmp_path / "stem.onnx", width)

    def run() -> Any:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"pictures": pictures})[0]

    before = run()
    exporting._pair_columns(path)
    import onnx

    graph = onnx.load(str(path)).graph
    assert [n.op_type for n in graph.node][:2] == ["Reshape", "Cast"]
    assert next(list(t.dims) for t in graph.initializer if t.name == "kernel") == [6, 6, 7, 4]
    after = run()
    assert after.shape == before.shape == (3, 6, 16, width // 2)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 15},
        {"mirrored": True},
        {"group": 3},
        {"strides": [1, 1]},
        {"dilations": [2, 2]},
        {"pads": [3, 2, 3, 3]},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_other_first_layers_stay_as_they_are(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = _stem(tmp_path / "stem.onnx", **changes)
    before = path.read_bytes()
    exporting._pair_columns(path)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("quick")
def test_openvino_files_give_the_same(toy_run: Path, onnx_folder: Path, tmp_path: Path,
                                      crops: list[npt.NDArray[np.uint8]]) -> None:  # fmt: skip
    export(toy_run, tmp_path / "m", format="openvino")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "card.json", "encoder.bin", "encoder.xml",
        "probe.npz"
    ]  # fmt: skip
    a, b = (Encoder.load(f)(crops) for f in (tmp_path / "m", onnx_folder))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_eight_bits_state_what_they_cost(toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    from crosscam.evaluate import evaluate

    dataset = datasets.load("market1501", toy_data, partial=True)
    # What was measured of the run: on the same data, and on other data.
    page = evaluate(embedder.load(toy_run, device="cpu"), dataset)
    elsewhere = {"data": "elsewhere", "mAP": 0.5}
    folder = toy_run / "evaluation"
    for name, values in (("toy", page.summary()), ("elsewhere", elsewhere)):
        (folder / name).mkdir(parents=True)
        (folder / name / "evaluation.json").write_text(json.dumps(values))
    try:
        card = export(
            toy_run, tmp_path / "m", precision="int8",
            calibration=toy_data / "bounding_box_train", measure=dataset,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert [f["data"] for f in card.figures] == ["elsewhere", "market1501"]  # each once
    figure = card.figures[-1]
    cosine = card.proof["cosine_to_network"]
    assert figure["precision"] == "int8"
    # The oracle: both models evaluated from the outside.
    exact = evaluate(embedder.load(toy_run, device="cpu"), dataset)
    own = evaluate(Encoder.load(tmp_path / "m").embedder(), dataset)
    assert figure["mAP_change"] == pytest.approx(own.metrics.mAP - exact.metrics.mAP, abs=1e-9)
    assert figure["rank1_change"] == pytest.approx(own.metrics.rank1 - exact.metrics.rank1)
    a, b = (
        np.concatenate([e.query_features, e.gallery_features]).astype(np.float64)
        for e in (own, exact)
    )
    assert cosine["on"] == "market1501"
    assert cosine["mean"] == pytest.approx((a * b).sum(1).mean(), abs=1e-5)
    assert cosine["least"] == pytest.approx((a * b).sum(1).min(), abs=1e-5)
    assert 0.95 < cosine["least"] < 0.999999  # near, and not the same
    # A picture and its mirror go through one set of weights.
    weights = onnx.load(str(tmp_path / "m" / "encoder.onnx")).graph.initializer
    contents = [(w.data_type, tuple(w.dims), numpy_helper.to_array(w).tobytes()) for w in weights]
    assert len(set(contents)) == len(contents)
    assert "from the network in float32" in card.text()


# --- what is refused ------------------------------------------------------------------------------


def test_settings_that_contradict_each_other(toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    with pytest.raises(InputError, match="int8 is for onnx and openvino"):
        export(toy_run, out, format="torch", precision="int8")
    with pytest.raises(InputError, match="int8 needs --calibration"):
        export(toy_run, out, precision="int8")
    with pytest.raises(InputError, match="--calibration is for --precision int8"):
        export(toy_run, out, calibration=toy_data)
    with pytest.raises(InputError, match="its card says by how much"):
        export(toy_run, out, precision="int8", calibration=toy_data)
    with pytest.raises(CheckpointError, match="not a run folder"):
        export(tmp_path, out)
    assert _nothing_left(out)
    out.mkdir()
    with pytest.raises(InputError, match="exists already"):
        export(toy_run, out, format="torch")


@pytest.mark.usefixtures("quick")
def test_too_few_pictures_are_refused(toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    source = next((toy_data / "query").glob("*.jpg"))
    for i in range(3):
        (few / f"{i}.jpg").write_bytes(source.read_bytes())
    with pytest.raises(DataError, match="the proof takes 17"):
        export(toy_run, tmp_path / "m", format="torch", pictures=few)
    with pytest.raises(DataError, match="needs 16 or more"):
        export(toy_run, tmp_path / "m", precision="int8", calibration=few,
               measure=datasets.load("market1501", toy_data, partial=True))  # fmt: skip
    assert _nothing_left(tmp_path / "m")


def test_a_missing_package_is_named(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnx" else 1)
    with pytest.raises(MissingExtraError, match=r"needs onnx: pip install 'crosscam\[export\]'"):
        export(toy_run, tmp_path / "m")


def _graph(change: str, written: Path, path: Path) -> None:
    """The toy graph with one thing wrong in it."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(written))
    graph = model.graph
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if change == "channels" and tensor.name in ("shift", "scale"):
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))
        if change == "weights" and values.shape == (8, 3, 7, 7):
            changed = values.copy()
            changed[0] *= 1.2
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    if change in ("batch", "length"):
        last = graph.node[-1]
        name, last.output[0] = last.output[0], "inner"
        if change == "batch":  # every row gets a little of the mean of its batch
            axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
            share = numpy_helper.from_array(np.array(0.01, np.float32), "share")
            graph.initializer.extend([axes, share])
            graph.node.extend([
                helper.make_node("ReduceMean", ["inner", "axes"], ["mean"], keepdims=1),
                helper.make_node("Mul", ["mean", "share"], ["some"]),
                helper.make_node("Add", ["inner", "some"], [name]),
            ])  # fmt: skip
        else:
            twice = numpy_helper.from_array(np.array(1.01, np.float32), "twice")
            graph.initializer.append(twice)
            graph.node.append(helper.make_node("Mul", ["inner", "twice"], [name]))
    onnx.save(model, str(path))


@pytest.mark.parametrize("change", ["channels", "weights", "batch", "length"])
def test_an_encoder_that_disagrees_is_not_written(
    toy_run: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(
        exporting, "_write_onnx", lambda _n, _s, path: _graph(change, written, path)
    )
    with pytest.raises(ExportError, match=r"wrong at batch \d+ in openvino.*Nothing was written"):
        export(toy_run, tmp_path / "m")
    assert _nothing_left(tmp_path / "m")


def test_the_proof_compares_every_batch_with_single_pictures(onnx_folder: Path) -> None:
    card = Card.read(onnx_folder)
    pictures = np.random.default_rng(1).integers(0, 256, (17, *SIZE, 3), dtype=np.uint8)
    encoder = Encoder.load(onnx_folder)
    asked = []

    def reference(some: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        asked.append(len(some))
        return encoder.pictures(some)

    proof = prove(onnx_folder, card, reference, pictures)
    assert asked == [1] * max(BATCHES)
    assert proof["least_cosine"] > 0.99999

    def upside_down(some: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return encoder.pictures(some[:, ::-1])

    with pytest.raises(ExportError, match="wrong at batch 1"):
        prove(onnx_folder, card, upside_down, pictures)


def test_a_network_that_sees_no_difference_proves_nothing(onnx_folder: Path) -> None:
    pictures = np.zeros((17, *SIZE, 3), np.uint8)
    one = np.eye(1, 64, dtype=np.float32)
    with pytest.raises(ExportError, match="nearly the same vector"):
        prove(onnx_folder, Card.read(onnx_folder), lambda _: one, pictures)
    with pytest.raises(ExportError, match="not finite"):
        prove(onnx_folder, Card.read(onnx_folder), lambda _: one * np.nan, pictures)


def test_the_pictures_of_the_proof_are_different_people() -> None:
    pictures = exporting._proof_pictures(None, Preprocess(size=(64, 32)))
    assert pictures.shape == (17, 64, 32, 3)
    flat = pictures.reshape(17, -1).astype(float)
    apart = np.abs(flat[:, None] - flat[None]).mean(2)
    assert apart[~np.eye(17, dtype=bool)].min() > 10


def test_what_only_training_reads_is_found_by_its_gradient() -> None:
    class Odd(methods.Method):
        paper = "none"
        dim = 3

        def __init__(self) -> None:
            super().__init__()
            self.used, self.head = nn.Linear(3, 3), nn.Linear(3, 5)
            self.used.weight.requires_grad_(False)  # frozen, but read

        def embed(self, images: Tensor) -> Tensor:
            return methods.unit(self.used(images.mean((2, 3))))

        def losses(self, batch: Any) -> dict[str, Tensor]:
            raise NotImplementedError

    odd = Odd()
    assert deployed.training_only(odd, (4, 4)) == ["head.weight", "head.bias"]
    assert not odd.used.weight.requires_grad


# --- every method can leave the lab ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.available())
def test_every_method_can_be_traced_with_a_free_batch(name: str) -> None:
    """The first half of writing ONNX, and the one that a method's code can break."""
    recipe = parse(None, [f"method.name={name}", "method.backbone.name=resnet18",
                          "method.backbone.width=0.125", "preprocess.size=[64,32]"])  # fmt: skip
    torch.manual_seed(0)
    method = recipe.method.build(4).eval()
    pictures = torch.from_numpy(exporting._proof_pictures(None, Preprocess(size=(64, 32))))
    with warnings.catch_warnings():  # of torch.export about itself
        warnings.simplefilter("ignore")
        program = torch.export.export(
            deployed.Deployed(method, recipe).eval(),
            (pictures[:2],),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    model = embedder.of_method(method, recipe, device="cpu")
    for count in BATCHES:
        got = program.module()(pictures[:count]).detach().numpy()
        np.testing.assert_allclose(got, model.function(pictures[:count].numpy()), atol=1e-5)


# --- models of others -----------------------------------------------------------------------------


class _Foreign(nn.Module):
    """A small network as others write them: normalized float pictures to raw features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 5, 2)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().amax((2, 3))) * 3


def _foreign(path: Path, dynamic: bool = True, size: tuple[int, int] = SIZE) -> Path:
    """Written node by node, so that it depends on no exporter."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    torch.manual_seed(4)
    state = {k: v.numpy() for k, v in _Foreign().state_dict().items()}
    batch: Any = "n" if dynamic else 1
    flat = [batch if not dynamic else -1, 12]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalMaxPool", ["r"], ["p"]),
            helper.make_node("Reshape", ["p", "flat"], ["f"]),
            helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["g"], transB=1),
            helper.make_node("Mul", ["g", "three"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])],
        [
            *(numpy_helper.from_array(v, k) for k, v in state.items()),
            numpy_helper.from_array(np.array(flat, np.int64), "flat"),
            numpy_helper.from_array(np.array(3, np.float32), "three"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


SAID = Statement("theirs", "MIT", "unknown")
PRE = Preprocess(size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_model_of_others_becomes_an_encoder(
    tmp_path: Path, crops: list[npt.NDArray[np.uint8]], channels: Any, flip: bool
) -> None:
    model = _foreign(tmp_path / "theirs.onnx")
    card = wrap(model, tmp_path / "m", preprocess=PRE, statement=SAID, channels=channels, flip=flip)
    assert (card.dim, card.name, card.license, card.flip) == (10, "theirs", "MIT", flip)
    # The oracle: the network in PyTorch, fed by hand.
    torch.manual_seed(4)
    network = _Foreign().eval()
    pictures = np.stack([PRE.load(c) for c in crops])
    x = torch.from_numpy((pictures / 255 - np.array(PRE.mean)) / np.array(PRE.std)).float()
    x = x.permute(0, 3, 1, 2)
    x = x.flip(1) if channels == "bgr" else x
    with torch.no_grad():
        features = nn.functional.normalize(network(x))
        if flip:
            features = nn.functional.normalize(
                features + nn.functional.normalize(network(x.flip(3)))
            )
    got = Encoder.load(tmp_path / "m")(crops)
    np.testing.assert_allclose(got, features.numpy(), atol=1e-5)


def test_a_batch_of_one_is_set_free_or_refused(tmp_path: Path) -> None:
    import onnx

    fixed = _foreign(tmp_path / "fixed.onnx", dynamic=False)
    # Its Reshape to [1, 12] holds for one picture only.
    with pytest.raises((ExportError, CheckpointError)):
        wrap(fixed, tmp_path / "a", preprocess=PRE, statement=SAID)
    assert _nothing_left(tmp_path / "a")
    model = onnx.load(str(_foreign(tmp_path / "free.onnx")))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(tmp_path / "declared.onnx"))
    card = wrap(tmp_path / "declared.onnx", tmp_path / "b", preprocess=PRE, statement=SAID)
    assert card.proof["batches"] == [1, 2, 17]


def test_models_of_others_that_cannot_be_used(tmp_path: Path) -> None:
    import onnx

    model = _foreign(tmp_path / "m.onnx")
    out = tmp_path / "out"

    def refused(path: Path, error: type[Exception], message: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {"preprocess": PRE, "statement": SAID, **changes}
        with pytest.raises(error, match=message):
            wrap(path, out, **arguments)
        assert _nothing_left(out)

    refused(tmp_path / "no.onnx", CheckpointError, "no ONNX file")
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01 nothing")
    refused(tmp_path / "bad.onnx", CheckpointError, "cannot be read as an ONNX model")
    refused(model, InputError, "needs its name", statement=Statement("x"))
    refused(
        model, InputError, "takes pictures of 32x16, and 64x32", preprocess=Preprocess((64, 32))
    )
    onnx.save(
        onnx.load(str(model)), str(tmp_path / "e.onnx"), save_as_external_data=True,
        location="e.bin", size_threshold=0, convert_attribute=False,
    )  # fmt: skip
    (tmp_path / "e.bin").unlink()
    refused(tmp_path / "e.onnx", CheckpointError, "data file that came with it|external data")
    two = onnx.load(str(model))
    two.graph.output.append(onnx.helper.make_tensor_value_info("g", 1, ["n", 10]))
    onnx.save(two, str(tmp_path / "two.onnx"))
    refused(tmp_path / "two.onnx", CheckpointError, "1 input and 2 outputs")
    maps = onnx.load(str(model))
    del maps.graph.output[:]
    maps.graph.output.append(onnx.helper.make_tensor_value_info("p", 1, ["n", 12, 1, 1]))
    onnx.save(maps, str(tmp_path / "maps.onnx"))
    refused(tmp_path / "maps.onnx", CheckpointError, "features are .N, D.")
