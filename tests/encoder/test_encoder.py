"""Encoders give the vectors of training's evaluation, whatever they are fed and run by."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import crosscam
from crosscam import embedder
from crosscam import export as exporting
from crosscam.card import BOUNDS, CARD, NATIVE_BOUND, Card, file_entry
from crosscam.encoder import Encoder
from crosscam.errors import (
    CheckpointError,
    DataError,
    ImageError,
    InputError,
    MissingExtraError,
)
from crosscam.image import decode

Picture = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def encoder(onnx_folder: Path) -> Encoder:
    return Encoder.load(onnx_folder, threads=2)


@pytest.fixture(scope="module")
def files(toy_data: Path) -> list[Path]:
    return sorted((toy_data / "bounding_box_test").glob("*.jpg"))


def test_jpegs_give_the_vectors_of_evaluation(
    toy_run: Path, torch_folder: Path, onnx_folder: Path, files: list[Path]
) -> None:
    """The golden test: the same files through evaluation and through every form of encoder."""
    golden = embedder.load(toy_run, device="cpu").files(files)
    assert np.array_equal(Encoder.load(toy_run, device="cpu").files(files), golden)
    assert np.array_equal(Encoder.load(torch_folder, device="cpu").files(files), golden)
    for runtime in ("openvino", "onnxruntime"):
        vectors = Encoder.load(onnx_folder, runtime=runtime).files(files)  # type: ignore[arg-type]
        assert np.linalg.norm(vectors - golden, axis=1).max() < BOUNDS["fp32"] / 50
    # The network tells these people apart, so equal vectors mean something.
    apart = np.linalg.norm(golden[:, None] - golden[None], axis=2)
    assert apart.max() > 0.1


def test_every_form_of_a_picture_gives_the_same_bits(
    encoder: Encoder, crops: list[Picture]
) -> None:
    crop = crops[0]
    png = io.BytesIO()
    Image.fromarray(crop).save(png, "PNG")
    forms: list[Any] = [
        crop,
        [crop],
        crop[None],
        Image.fromarray(crop),
        png.getvalue(),
        torch.from_numpy(crop),
        torch.from_numpy(crop).permute(2, 0, 1),
        torch.from_numpy(crop)[None].permute(0, 3, 1, 2),
        (c for c in [crop]),
    ]
    first = encoder(crop)
    assert first.shape == (1, 64)
    assert first.dtype == np.float32
    for form in forms:
        assert np.array_equal(encoder(form), first)


def test_paths_and_arrays_agree(encoder: Encoder, files: list[Path]) -> None:
    assert np.array_equal(encoder(files[0]), encoder(str(files[0])))
    assert np.array_equal(encoder(files[:3]), encoder([decode(f) for f in files[:3]]))


def test_vectors_have_length_one_and_follow_the_order(
    encoder: Encoder, crops: list[Picture]
) -> None:
    many = [crops[i % len(crops)] for i in range(75)]  # several batches, the last one partly full
    vectors = encoder(many)
    assert vectors.shape == (75, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    single = np.concatenate([encoder(c) for c in crops])
    np.testing.assert_allclose(vectors, single[np.arange(75) % len(crops)], atol=2e-6)
    assert len({row.tobytes() for row in single}) == len(crops)


@pytest.fixture(scope="module")
def half(onnx_folder: Path, toy_run: Path, written: Path) -> Path:
    """The toy network with weights in 16 bits."""
    out = onnx_folder.parent / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_write_onnx", lambda _n, _s, path: shutil.copy(written, path))
        exporting.export(toy_run, out, precision="fp16")
    return out


def test_half_weights_are_computed_in_float32_unless_asked(
    half: Path, toy_run: Path, files: list[Path]
) -> None:
    """Vectors are compared for years, so what a processor would rather do does not count."""
    golden = embedder.load(toy_run, device="cpu").files(files)
    found = {}
    for runtime in ("openvino", "onnxruntime"):
        encoder = Encoder.load(half, runtime=runtime, threads=1)  # type: ignore[arg-type]
        assert encoder.runtime.precision == "float32"
        found[runtime] = encoder.files(files)
        assert np.linalg.norm(found[runtime] - golden, axis=1).max() < BOUNDS["fp16"]
    np.testing.assert_allclose(found["openvino"], found["onnxruntime"], atol=1e-5)
    native = Encoder.load(half, precision="native", threads=1)
    apart = np.linalg.norm(native.files(files) - golden, axis=1).max()
    assert apart < NATIVE_BOUND
    if native.runtime.precision != "float32":
        assert native.runtime.precision in ("bfloat16", "float16")
        assert apart > np.linalg.norm(found["openvino"] - golden, axis=1).max()


def test_half_torch_weights_are_computed_in_bfloat16_only_when_asked(
    toy_run: Path, tmp_path: Path, files: list[Path]
) -> None:
    exporting.export(toy_run, tmp_path / "m", format="torch", precision="fp16")
    golden = embedder.load(toy_run, device="cpu").files(files)
    apart = {}
    for precision in ("float32", "native"):
        encoder = Encoder.load(tmp_path / "m", device="cpu", precision=precision)  # type: ignore[arg-type]
        apart[encoder.runtime.precision] = np.linalg.norm(encoder.files(files) - golden, axis=1)
    assert apart["float32"].max() < apart["bfloat16"].max() < NATIVE_BOUND
    assert apart["float32"].max() < BOUNDS["fp16"]


def test_native_numbers_need_a_proof(onnx_folder: Path, toy_run: Path) -> None:
    for folder in (onnx_folder, toy_run):
        with pytest.raises(InputError, match=r"'native' is for fp16.*is fp32.*--precision fp16"):
            Encoder.load(folder, precision="native")
    with pytest.raises(InputError, match="float32 or native, got 'fp16'"):
        Encoder.load(onnx_folder, precision="fp16")  # type: ignore[arg-type]


def test_no_pictures_give_no_vectors(encoder: Encoder) -> None:
    assert encoder([]).shape == (0, 64)
    assert encoder.pictures(np.zeros((0, 32, 16, 3), np.uint8)).shape == (0, 64)


def test_red_and_blue_are_told_apart(encoder: Encoder, crops: list[Picture]) -> None:
    swapped = np.ascontiguousarray(crops[0][:, :, ::-1])
    assert float(encoder(crops[0])[0] @ encoder(swapped)[0]) < 0.999


def test_gray_alpha_cmyk_and_16_bits_are_read_as_everywhere(
    encoder: Encoder, crops: list[Picture]
) -> None:
    """What ``image.decode`` states: gray is repeated, alpha lies on white, upper 8 of 16 bits."""
    gray = crops[0][:, :, 0]
    assert np.array_equal(encoder(gray), encoder(np.stack([gray] * 3, 2)))
    alpha = np.dstack([crops[0], np.full(gray.shape, 255, np.uint8)])
    assert np.array_equal(encoder(alpha), encoder(crops[0]))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    assert np.array_equal(encoder(deep), encoder(gray))
    cmyk = io.BytesIO()
    Image.fromarray(crops[0]).convert("CMYK").save(cmyk, "JPEG", quality=95)
    assert np.array_equal(encoder(cmyk.getvalue()), encoder(decode(cmyk.getvalue())))
    mixed = encoder([gray, alpha, crops[0], deep])  # in one call
    assert mixed.shape == (4, 64)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "not empty"),
        (np.zeros((5, 0, 3), np.uint8), "not empty"),
        (np.zeros((5, 5, 2), np.uint8), "uint8 .h, w, 3. RGB"),
        (np.zeros((5, 5, 5), np.uint8), "uint8 .h, w, 3. RGB"),
        (np.zeros((5, 5, 3), np.float32), "float32"),
        (np.zeros((5, 5, 3), np.uint16), "uint16"),
        (torch.zeros(3, 5, 5), "float32"),
        (b"", "empty"),
        (b"no picture", "not a picture"),
        (Path("nowhere.jpg"), "no picture at nowhere.jpg"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (None, "NoneType"),
        (3, "int"),
    ],
)
def test_what_is_no_picture_is_named(
    encoder: Encoder, crops: list[Picture], picture: Any, message: str
) -> None:
    with pytest.raises(ImageError, match=f"picture 1: .*{message}"):
        encoder([crops[0], picture])


@pytest.mark.parametrize("argument", [None, 3, 2.5])
def test_what_is_no_sequence_is_refused(encoder: Encoder, argument: Any) -> None:
    with pytest.raises(ImageError, match="pictures are paths"):
        encoder(argument)


def test_pictures_of_another_size_are_refused(encoder: Encoder) -> None:
    for shape in ((2, 16, 32, 3), (2, 32, 16, 4), (32, 16, 3)):
        with pytest.raises(InputError, match=r"uint8 \[N, 32, 16, 3\] RGB"):
            encoder.pictures(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="float64"):
        encoder.pictures(np.zeros((2, 32, 16, 3)))


def test_bad_files_are_counted_and_named(
    encoder: Encoder, files: list[Path], tmp_path: Path
) -> None:
    broken = [tmp_path / f"b{i}.jpg" for i in range(7)]
    for path in broken:
        path.write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(DataError, match=r"7 of 25 pictures(.|\n)*b0\.jpg(.|\n)*and 2 more"):
        encoder.files([*files, *broken])


def test_a_stream_leaves_bad_pictures_out_and_keeps_the_order(
    encoder: Encoder, crops: list[Picture]
) -> None:
    given: list[Any] = [*crops, b"broken", *crops]
    got = list(encoder.stream(iter(given), batch=5))
    rows = np.concatenate([g.rows for g in got])
    assert rows.tolist() == [i for i in range(43) if i != 21]
    assert next(f for g in got for f in g.failed)[0] == 21
    vectors = np.concatenate([g.vectors for g in got])
    np.testing.assert_allclose(vectors[:21], vectors[21:], atol=2e-6)


def test_a_stream_reads_no_further_ahead_than_it_says(
    encoder: Encoder, crops: list[Picture]
) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield crops[0]

    stream = encoder.stream(endless(), batch=4)
    next(stream)
    next(stream)
    limit = 2 * (encoder.threads + encoder.runtime.together)
    assert taken <= 4 * (limit + 2)
    stream.close()


def test_threads_may_share_an_encoder(encoder: Encoder, crops: list[Picture]) -> None:
    expected = encoder(crops)
    got: list[Any] = [None] * 4

    def work(i: int) -> None:
        got[i] = encoder(crops)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(np.array_equal(g, expected) for g in got)


# --- folders that cannot be used ------------------------------------------------------------------


def _rehash(folder: Path) -> None:
    """Make the card fit the files, as somebody would who wants a broken file to pass."""
    values = json.loads((folder / CARD).read_text())
    values["files"] = {name: file_entry(folder / name) for name in values["files"]}
    (folder / CARD).write_text(json.dumps(values))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_corrupt_graph_with_the_right_hash_is_refused(copied: Path, runtime: Any) -> None:
    (copied / "encoder.onnx").write_bytes(b"\x08\x07garbage" * 50)
    _rehash(copied)
    with pytest.raises(CheckpointError, match=r"encoder\.onnx cannot be opened by"):
        Encoder.load(copied, runtime=runtime)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_graph_without_its_external_data_is_refused(copied: Path, runtime: Any) -> None:
    import onnx

    path = copied / "encoder.onnx"
    model = onnx.load(str(path))
    onnx.save(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (copied / "weights.bin").unlink()
    _rehash(copied)
    with pytest.raises(CheckpointError, match=r"encoder\.onnx cannot be opened by"):
        Encoder.load(copied, runtime=runtime)


def test_a_card_with_another_feature_size_is_noticed(copied: Path, crops: list[Picture]) -> None:
    values = json.loads((copied / CARD).read_text())
    (copied / CARD).write_text(json.dumps({**values, "dim": 63}))
    with pytest.raises(CheckpointError, match="its card says 63"):
        Encoder.load(copied)(crops[0])


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_card_with_another_size_is_noticed(copied: Path, runtime: Any) -> None:
    values = json.loads((copied / CARD).read_text())
    values["preprocess"]["size"] = [64, 32]
    (copied / CARD).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"\[32, 16, 3\].*its card says.*\[64, 32, 3\]"):
        Encoder.load(copied, runtime=runtime)


def test_torch_weights_that_do_not_fit_are_named(torch_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(torch_folder, tmp_path / "m"))
    weights = load_file(folder / "weights.safetensors")
    save_file({k: v for k, v in weights.items() if "layer4" not in k},
              folder / "weights.safetensors")  # fmt: skip
    _rehash(folder)
    with pytest.raises(CheckpointError, match=r"does not fit the method.*layer4"):
        Encoder.load(folder)


def test_a_method_file_of_somebody_else_is_never_run(torch_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(torch_folder, tmp_path / "m"))
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    text = (folder / "recipe.yaml").read_text().replace("name: baseline", f"name: {evil}")
    assert str(evil) in text
    (folder / "recipe.yaml").write_text(text)
    _rehash(folder)
    with pytest.raises(CheckpointError, match="does not come with this version"):
        Encoder.load(folder)
    assert not (tmp_path / "ran").exists()


def test_the_torch_format_leaves_out_what_only_training_reads(
    toy_run: Path, torch_folder: Path
) -> None:
    from safetensors.torch import load_file

    kept = load_file(torch_folder / "weights.safetensors")
    trained = load_file(toy_run / "weights.safetensors")
    assert set(trained) - set(kept) == {"classifier.weight", "centers.centers"}
    assert str(toy_run.parent) not in (torch_folder / "recipe.yaml").read_text()


def test_settings_that_cannot_be_are_refused(onnx_folder: Path, torch_folder: Path) -> None:
    with pytest.raises(InputError, match="threads must be 0"):
        Encoder.load(onnx_folder, threads=-1)
    with pytest.raises(InputError, match="runtime 'torch' cannot run an ONNX encoder"):
        Encoder.load(onnx_folder, runtime="torch")
    with pytest.raises(InputError, match="cannot run a torch encoder"):
        Encoder.load(torch_folder, runtime="openvino")
    with pytest.raises(InputError, match="'tpu' is not supported"):
        Encoder.load(onnx_folder, device="tpu", runtime="onnxruntime")
    with pytest.raises(InputError, match="run on the CPU"):
        Encoder.load(onnx_folder, device="cuda", runtime="openvino")


def test_without_a_runtime_the_extra_is_named(
    onnx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosscam.encoder import runtimes

    monkeypatch.setattr(runtimes, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"openvino or onnxruntime.*crosscam\[serve\]"):
        Encoder.load(onnx_folder)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_nothing_of_the_lab_is_needed(onnx_folder: Path, toy_data: Path, runtime: str) -> None:
    """A process in which none of the lab's packages can be imported encodes a folder."""
    absent = ["torch", "numba", "yaml", "jsonargparse", "safetensors", "scipy", "threadpoolctl"]
    code = f"""
import sys
for name in {absent}: sys.modules[name] = None
import crosscam
from crosscam.cli import main
assert main(["embed", {str(toy_data)!r}, "--model", {str(onnx_folder)!r}, "--runtime",
             {runtime!r}, "-o", sys.argv[1]]) == 0
loaded = sys.modules.get("openvino_telemetry")
assert loaded is None, loaded
"""
    out = onnx_folder.parent / f"{runtime}.npz"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as arrays:
        assert arrays["query_features"].shape == (18, 64)


def test_the_package_gives_its_encoder_when_asked() -> None:
    code = "import sys, crosscam; assert 'numpy' not in sys.modules; crosscam.Encoder; " \
           "print('torch' in sys.modules)"  # fmt: skip
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert crosscam.Encoder is Encoder
    with pytest.raises(AttributeError, match="no attribute 'Decoder'"):
        crosscam.Decoder  # noqa: B018


def test_a_gallery_gets_what_it_asks_for(encoder: Encoder, card: Card) -> None:
    assert encoder.hash == card.hash
    assert (encoder.dim, encoder.name, encoder.parts) == (64, "run", {})
