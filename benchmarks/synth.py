"""How fast people are rendered, and how many bytes they take.

    python benchmarks/synth.py                  # 200 images in one process
    python benchmarks/synth.py --stages         # where the time goes
    python benchmarks/synth.py --difficulty     # what a color histogram can tell apart

Times are CPU seconds of the process (``time.process_time``) beside wall seconds, after everything
is compiled and the shared textures are drawn.  The reference in the same run is PIL's own work on
the same pictures: decoding and writing them again, the least any generator must do.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from simplejpeg import encode_jpeg

from crosscam.cli import told
from crosscam.retrieval import evaluate
from crosscam.synth import raster, read_annotations, read_labels, synthesize
from crosscam.synth.camera import draw_camera
from crosscam.synth.identity import draw_identity
from crosscam.synth.person import make_person
from crosscam.synth.render import Look, encode, render_shot


class Clock:
    """CPU and wall seconds spent inside ``with`` blocks."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __enter__(self) -> Clock:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall


def speed(images: int, per_person: int) -> None:
    """Images a second of one core, all labels encoded, with and without making the people."""
    cameras = [draw_camera(1, n + 1) for n in range(6)]
    warm = make_person(draw_identity(1, 999))
    for k in range(150):  # also makes the passers-by
        encode(render_shot(warm, cameras[k % 6], k, Look()))
    person_clock, shot_clock, code_clock, pil_clock = Clock(), Clock(), Clock(), Clock()
    sizes: dict[str, list[int]] = {"jpg": [], "png": [], "iuv": []}
    texture_bytes = 0
    people = max(1, images // per_person)
    for index in range(people):
        with person_clock:
            person = make_person(draw_identity(1, index))
        color, _ = person.texture()
        texture_bytes += len(encode_jpeg(color, quality=90, colorsubsampling="444"))
        for k in range(per_person):
            with shot_clock:
                shot = render_shot(person, cameras[k % 6], k, Look())
            with code_clock:
                files = encode(shot)
            with pil_clock:
                for data in files.values():
                    picture = Image.open(io.BytesIO(data))
                    picture.load()
                    picture.save(io.BytesIO(), picture.format or "PNG")
            for name, data in files.items():
                sizes[name].append(len(data))
    n = people * per_person
    total = Clock()
    total.cpu = person_clock.cpu + shot_clock.cpu + code_clock.cpu
    total.wall = person_clock.wall + shot_clock.wall + code_clock.wall
    print(f"{n} images of {people} people, {per_person} each")
    for name, clock in (("render", shot_clock), ("encode", code_clock),
                        ("reference: PIL reads and writes them", pil_clock)):  # fmt: skip
        print(
            f"  {name:38s} {clock.cpu / n * 1e3:7.2f} CPU ms  {clock.wall / n * 1e3:7.2f} ms wall"
        )
    print(f"  {'a person, once':38s} {person_clock.cpu / people * 1e3:7.2f} CPU ms")
    print(
        f"  all: {n / total.cpu:.1f} images per CPU second and core "
        f"({n / total.wall:.1f} by the wall clock), {total.cpu / pil_clock.cpu:.2f} x reference"
    )
    means = {k: np.mean(v) for k, v in sizes.items()}
    print(
        "  bytes an image: "
        + ", ".join(f"{k} {v:.0f}" for k, v in means.items())
        + f", texture {texture_bytes / n:.0f}; sum {sum(means.values()) + texture_bytes / n:.0f}"
    )


def stages(images: int) -> None:
    """CPU time of each compiled loop, by wrapping it."""
    spent: dict[str, Clock] = {}

    def wrap(name: str, function: Callable[..., None]) -> Callable[..., None]:
        clock = spent[name] = Clock()

        def timed(*args: object) -> None:
            with clock:
                function(*args)

        return timed

    person = make_person(draw_identity(1, 0))
    cameras = [draw_camera(1, n + 1) for n in range(6)]
    for k in range(150):  # also makes the passers-by
        render_shot(person, cameras[k % 6], k, Look())
    names = (
        "skin",
        "normals",
        "rasterize",
        "scene_rays",
        "shade",
        "resize_area",
        "blur",
        "develop",
    )
    for name in names:
        setattr(raster, name, wrap(name, getattr(raster, name)))
    whole = Clock()
    with whole:
        for k in range(images):
            render_shot(person, cameras[k % 6], 100 + k, Look())
    for name, clock in spent.items():
        print(f"  {name:14s} {clock.cpu / images * 1e3:7.2f} CPU ms an image")
    rest = whole.cpu - sum(c.cpu for c in spent.values())
    print(f"  {'the rest':14s} {rest / images * 1e3:7.2f}")
    print(f"  {'sum':14s} {whole.cpu / images * 1e3:7.2f}")


def _histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """HSV histogram of eight horizontal stripes, square roots of shares."""
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.int64)
    cells = (hsv[..., 0] * 12 // 256) * 6 + hsv[..., 1] * 6 // 256
    value = hsv[..., 2] * 8 // 256
    out = []
    for s in range(8):
        rows = slice(s * 32, s * 32 + 32)
        inside = mask[rows]
        for codes, bins in ((cells[rows], 72), (value[rows], 8)):
            count = np.bincount(codes[inside], minlength=bins).astype(float)
            out.append(np.sqrt(count / max(count.sum(), 1)))
    return np.concatenate(out)


def difficulty(ids: int, seed: int) -> None:
    """Rank-1 and mAP of a hand-made color feature: whole box against true mask."""
    with tempfile.TemporaryDirectory() as folder:
        root = synthesize(Path(folder) / "set", ids, 6, 2, seed=seed, train_share=0.0,
                          distractors=0, junk=0)  # fmt: skip
        rows = read_annotations(root)
        box, masked = [], []
        for name in rows["name"]:
            image = np.asarray(Image.open(root / str(name)))
            person = read_labels(root, str(name)).part > 0
            box.append(_histogram(image, np.ones_like(person)))
            masked.append(_histogram(image, person))
    query = np.array([str(n).startswith("query") for n in rows["name"]])
    labels = (rows["pid"], rows["camid"])
    same, same_camera = (label[query][:, None] == label[~query][None] for label in labels)
    chance = []
    for row in range(query.sum()):
        kept = ~(same[row] & same_camera[row])
        chance.append(same[row][kept].mean())
    print(f"{ids} people, 6 cameras, 2 shots; chance rank-1 {100 * np.mean(chance):.1f}")
    for name, features in (("whole box", box), ("true mask", masked)):
        x = np.array(features)
        found = evaluate(x[query], *(label[query] for label in labels),
                         x[~query], *(label[~query] for label in labels))  # fmt: skip
        print(f"  {name}: rank-1 {100 * found.rank1:.1f}, mAP {100 * found.mAP:.1f}")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--per-person", type=int, default=20)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--difficulty", action="store_true")
    parser.add_argument("--ids", type=int, default=60)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    if args.difficulty:
        difficulty(args.ids, args.seed)
    elif args.stages:
        stages(args.images)
    else:
        speed(args.images, args.per_person)


if __name__ == "__main__":
    sys.exit(told(main))
