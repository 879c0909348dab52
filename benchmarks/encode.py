"""Pictures per second from JPEG files to unit vectors, against eager float32 PyTorch.

    python benchmarks/encode.py                                   # OSNet x0.25, ResNet-50
    python benchmarks/encode.py --backbones osnet_x0_25 --pictures 2000 --threads 1

Networks have random weights whose batch statistics were taken from pictures, which is all that
speed depends on.  Pictures are made of the 17 rendered people of the package: mirrored, cropped,
brightened, at person-crop sizes, each a JPEG file of its own.

"network" is the encoder called with decoded pictures, 8 or 64 at a time.  "files" is the whole
way: reading, decoding, resizing, encoding, of a folder.  "native" computes in the 16 bits of the
processor, where the others compute in float32 (but for the layers of int8).  "eager" is PyTorch
with channels first, as most code runs it; our own torch runtime keeps pictures in channels-last
order.

Every line runs in a process of its own and says images per second, images per CPU-second (all
threads counted), the ratio of the latter to the first line of its block, and the largest memory of
the process.  On a busy machine images per CPU-second is the figure to look at; the load is printed
beside it, and OpenMP's threads sleep while they wait (OMP_WAIT_POLICY), or they would burn what
others need.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from crosscam import image, probe
from crosscam.cli import told

FORMS = [
    "torch:fp32:eager",
    "torch:fp32:torch",
    "torch:fp16:torch:native",
    "onnx:fp32:onnxruntime",
    "onnx:fp32:openvino",
    "openvino:fp16:openvino:native",
    "onnx:int8:openvino",
]
SLOW = {"resnet50": 20}  # such a share of the pictures is enough


def people(count: int, seed: int) -> list[bytes]:
    """JPEG crops of rendered people, all different."""
    rng = np.random.default_rng(seed)
    crops = probe.people()
    made = []
    for number in range(count):
        picture = Image.fromarray(crops[number % len(crops)])
        left, top = rng.integers(0, 8, 2)
        picture = picture.crop((left, top, 64 - rng.integers(0, 8), 128 - rng.integers(0, 8)))
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = ImageEnhance.Brightness(picture).enhance(float(rng.uniform(0.6, 1.4)))
        height = int(rng.integers(100, 200))
        picture = picture.resize((height // 2, height))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def prepare(work: Path, backbone: str, forms: list[list[str]]) -> None:
    """A run with random weights, and its encoders."""
    import torch

    import crosscam
    from crosscam import deployed
    from crosscam import export as exporting
    from crosscam.data import datasets
    from crosscam.recipe import parse
    from crosscam.training.checkpoint import save_weights

    run = work / backbone / "run"
    run.mkdir(parents=True)
    recipe = parse(None, [f"method.backbone.name={backbone}"])
    torch.manual_seed(0)
    method = recipe.method.build(751).train()
    pictures = np.stack([recipe.preprocess.load(p) for p in people(64, 1)])
    for module in method.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0  # the statistics of these pictures, whole
    with torch.no_grad():
        method.embed(recipe.preprocess.normalize_tensor(torch.from_numpy(pictures)))
    save_weights(run / "weights.safetensors", method.state_dict())
    (run / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    on = {"title": "nothing", "images": 0, "identities": 751, "cameras": 0}
    card = {"method": "baseline", "num_classes": 751, "trained_on": on,
            "crosscam": crosscam.__version__}  # fmt: skip
    (run / "card.json").write_text(json.dumps(card), encoding="utf-8")
    own = work / backbone / "data"
    for number, data in enumerate(people(68, 2)):
        for split in ("calibration",) if number >= 51 else ("query", "gallery"):
            folder = own / split / str(number % 17)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}_{split}.jpg").write_bytes(data)
    for number, data in enumerate(people(64, 3)):
        (own / "calibration" / f"{number}.jpg").write_bytes(data)
    measured = datasets.load("folder", own)
    written = work / backbone / "graph.onnx"  # the same for all: written once
    network = deployed.Deployed(method.eval(), recipe).eval()
    write = exporting._write_onnx
    write(network, recipe.preprocess.size, written)
    exporting.prove = lambda *_: {}  # type: ignore  # random weights amplify every rounding
    exporting._write_onnx = lambda _n, _s, path: shutil.copy(written, path)  # type: ignore
    for kind, precision in dict.fromkeys((form[0], form[1]) for form in forms):
        eight = precision == "int8"
        exporting.export(
            run,
            work / backbone / f"{kind}-{precision}",
            format=kind,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            calibration=own / "calibration" if eight else None,
            measure=measured if eight else None,
        )
    exporting._write_onnx = write


def plain(encoder: Any, run: Path) -> Any:
    """The network as most code runs it: float32, channels first, on pictures decoded before."""
    import torch

    from crosscam.embedder import load_method

    method, recipe, _ = load_method(run)
    method.eval()

    @torch.inference_mode()
    def function(pictures: Any) -> Any:
        images = recipe.preprocess.normalize_tensor(torch.from_numpy(pictures)).contiguous()
        return method.embed(images).numpy()

    return replace(encoder, runtime=replace(encoder.runtime, function=function))


def measure(job: dict[str, Any]) -> dict[str, float]:
    """One line, in this process."""
    from crosscam.encoder import Encoder

    eager = job["runtime"] == "eager"
    encoder = Encoder.load(job["folder"], runtime="torch" if eager else job["runtime"],
                           device="cpu", threads=job["threads"],
                           precision=job["numbers"])  # fmt: skip
    if eager:
        encoder = plain(encoder, Path(job["folder"]).parent / "run")
    if job["batch"]:
        pictures = np.stack([encoder.preprocess.load(p) for p in people(job["batch"], 4)])
        encoder.pictures(pictures)

        def work() -> int:
            encoder.pictures(pictures)
            return len(pictures)

        repeats = max(1, job["pictures"] // 4 // job["batch"])
    else:
        files = sorted(Path(job["data"]).iterdir())[: job["pictures"]]
        if len(files) < 5 * image._PAYS:  # stand for a longer folder, most of which is resized so
            image._compile()
            image._resized = itertools.count(image._PAYS + 1)
        encoder.files(files[:64])

        def work() -> int:
            encoder.files(files)
            return len(files)

        repeats = 1
    rates = []
    for _ in range(3 if job["batch"] else 1):
        wall, cpu, count = time.monotonic(), time.process_time(), 0
        for _ in range(repeats):
            count += work()
        rates.append((count / (time.process_time() - cpu), count / (time.monotonic() - wall)))
    per_cpu = statistics.median(r[0] for r in rates)
    return {
        "per_cpu_second": per_cpu,
        "per_second": statistics.median(r[1] for r in rates),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def block(encoders: Path, forms: list[list[str]], job: dict[str, Any], as_json: bool) -> None:
    """Measure all forms of a backbone by one ``job``, and print a line for each."""
    what = f"network, batch {job['batch']}" if job["batch"] else "files"
    print(f"\n{encoders.name}, {what}, threads {job['threads']}", flush=True)
    print(f"{'':34s}{'images/s':>10s}{'per CPU-s':>11s}{'ratio':>7s}{'MB':>7s}{'load':>6s}")
    first = 0.0
    for kind, precision, runtime, *numbers in forms:
        own = {**job, "folder": str(encoders / f"{kind}-{precision}"), "runtime": runtime,
               "numbers": "".join(numbers) or "float32"}  # fmt: skip
        got = in_process_of_its_own(own)
        first = first or got["per_cpu_second"]
        ratio, load = got["per_cpu_second"] / first, os.getloadavg()[0]
        name = " ".join([kind, precision, f"({runtime})", *numbers])
        print(f"{name:34s}{got['per_second']:10.1f}{got['per_cpu_second']:11.1f}"
              f"{ratio:7.2f}{got['memory_mb']:7.0f}{load:6.1f}", flush=True)  # fmt: skip
        if as_json:
            print(json.dumps({**own, **got, "ratio": ratio, "load": load}), flush=True)


def in_process_of_its_own(job: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--job", json.dumps(job)],
        capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["osnet_x0_25", "resnet50"])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--forms", nargs="+", default=FORMS,
                        metavar="FORMAT:PRECISION:RUNTIME[:native]")  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measure(json.loads(options.job))))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of export; lines have their own
    forms = [form.split(":") for form in options.forms]
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
          f"Python {platform.python_version()}", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        data = work / "pictures"
        data.mkdir()
        for number, picture in enumerate(people(options.pictures, 0)):
            (data / f"{number:05d}.jpg").write_bytes(picture)
        for backbone in options.backbones:
            # A process of its own, or its memory would be counted as that of every line.
            made = multiprocessing.get_context("spawn").Process(
                target=prepare, args=(work, backbone, forms)
            )
            made.start()
            made.join()
            if made.exitcode:
                raise SystemExit(f"{backbone} could not be exported")
            pictures = options.pictures // SLOW.get(backbone, 1)
            for batch in [*options.batch, 0]:
                for threads in options.threads if not batch else options.threads[:1]:
                    job = {"batch": batch, "threads": threads, "data": str(data),
                           "pictures": pictures}  # fmt: skip
                    block(work / backbone, forms, job, options.json)


if __name__ == "__main__":
    sys.exit(told(main))
