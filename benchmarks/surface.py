"""How well a part network places cells on the body, on rendered people it has not seen.

    crosscam synth unseen --ids 40 --cameras 12 --shots 1 --seed 12 --train-share 1
    python benchmarks/surface.py RUN unseen [--sheet sheet.jpg]

RUN is one of ``crosscam train parts method.surface=2``.  Counted are all cells of the training
pictures that show the body, whatever the network takes them for.  Printed: distance on the body at
rest, in centimeters, and on the texture of 256 x 256, in texels; their means and medians, and the
shares of cells within 5, 10 and 20 cm and within 5, 10 and 20 % of the texture's side.

Beside it stand what the true label of a cell alone gives, which is the mean point (distance) or
the mean (u, v) (texels) of its label, fitted on the same pictures; and the network again, with the
other side of the body counted as right: the difference is what it confuses left and right.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from crosscam import annotate, synth
from crosscam.cli import told
from crosscam.data import datasets
from crosscam.image import decode, resize
from crosscam.priors import labels, rendered, surface
from crosscam.priors.sheet import place_colors, tinted
from crosscam.synth.person import texture_mask
from crosscam.types import BODY_PARTS

Floats = npt.NDArray[np.float64]


def row(name: str, far: Floats, texels: Floats) -> None:
    """Print a line of the table."""
    within = [f"{100 * (far * 100 <= limit).mean():6.1f}" for limit in (5, 10, 20)]
    near = [f"{100 * (texels <= 256 * limit).mean():6.1f}" for limit in (0.05, 0.1, 0.2)]
    numbers = [100 * far.mean(), 100 * np.median(far), texels.mean(), np.median(texels)]
    mean, median, uv, uv_median = (f"{v:8.1f}" for v in numbers)
    print(f"{name:24s}{mean}{median}{''.join(within)}{uv}{uv_median}{''.join(near)}")


def main() -> None:
    """Print the table, and draw a sheet if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("root", type=Path, help="a rendered set")
    parser.add_argument("--sheet", type=Path, help="picture to write")
    parser.add_argument("--count", type=int, default=8, help="people on the sheet")
    options = parser.parse_args()
    samples = datasets.load("rendered", options.root).require_train()
    run = annotate.Run(options.run, "cpu")
    true, guessed, found, label = [], [], [], []
    rows = []
    chosen = set(range(0, len(samples), max(len(samples) // options.count, 1)))
    for i, sample in enumerate(samples):
        truth = synth.read_labels(options.root, f"bounding_box_train/{sample.path.name}")
        part = labels.shrink(truth.part, rendered.SIZE)
        picture = run.preprocess.load(sample.path)
        parts, points = run.points(picture[None], rendered.SIZE)
        on = truth.iuv[..., 0] > 0
        true.append(truth.iuv[on])
        label.append(part[on])
        guessed.append(points[0][on])
        found.append(surface.places(guessed[-1]))
        if options.sheet and i in chosen:
            shown = surface.points(run.located(picture[None], rendered.SIZE)[0])
            unwrapped = surface.unwrap(resize(decode(sample.path), (128, 64)), shown, 128)
            color, _ = synth.read_texture(options.root, sample.pid)
            color = np.where(texture_mask()[..., None], color, np.uint8(64))
            gray = np.where(unwrapped[..., 3:] > 0, unwrapped[..., :3], np.uint8(128))
            off = np.isnan(surface.chart_points(128)[..., :1])
            gray = np.where(off, np.uint8(64), gray)
            tall = resize(decode(sample.path), (256, 128))
            tiles = [tall, tinted(tall, parts[0], BODY_PARTS)]
            for places in (shown, surface.points(truth.iuv)):
                tiles.append(place_colors(places.repeat(2, 0).repeat(2, 1)))
            tiles += [resize(np.ascontiguousarray(t), (256, 256)) for t in (gray, color)]
            rows.append(np.hstack(tiles))
    iuv, at, guess, names = (np.concatenate(v) for v in (true, found, guessed, label))
    point = surface.points(iuv).astype(np.float64)
    uv, uv_found = iuv[:, 1:].astype(np.float64), at[:, 1:].astype(np.float64)

    def both(places: Floats, on_texture: Floats) -> tuple[Floats, Floats]:
        return np.linalg.norm(places - point, axis=1), np.linalg.norm(on_texture - uv, axis=1)

    mean_point, mean_uv = np.zeros_like(point), np.zeros_like(uv)
    for name in np.unique(names):
        mean_point[names == name] = point[names == name].mean(0)
        mean_uv[names == name] = uv[names == name].mean(0)
    print(f"{len(samples):,} pictures, {len(point):,} cells on the body; centimeters, then texels")
    print(f"{'':24s}    mean  median   <=5  <=10  <=20    mean  median  <=5%  <=10%  <=20%")
    row("its true label alone", *both(mean_point, mean_uv))
    row(options.run.name, *both(guess, uv_found))
    other = guess * [-1.0, 1.0, 1.0]
    swapped = surface.places(other.astype(np.float32))[:, 1:].astype(np.float64)
    pairs = zip(both(guess, uv_found), both(other, swapped), strict=True)
    row("  either side", *(np.minimum(a, b) for a, b in pairs))
    if options.sheet:
        half = (len(rows) + 1) // 2
        rows += [np.full_like(rows[0], 255)] * (2 * half - len(rows))
        gap = np.full((256, 16, 3), 255, np.uint8)
        lines = [np.hstack([a, gap, b]) for a, b in zip(rows[:half], rows[half:], strict=True)]
        Image.fromarray(np.vstack(lines)).save(options.sheet, quality=80)


if __name__ == "__main__":
    sys.exit(told(main))
