"""How well a run paints textures: error on rendered people it has not seen, and a sheet to look at.

    crosscam synth pit --ids 800 --pairs 10 --shots 1 --train-share 1 --seed 1
    crosscam synth unseen --ids 100 --cameras 4 --pairs 4 --shots 1 --train-share 1 --seed 9
    crosscam train san_pg-cpu data.root=pit
    python benchmarks/texture.py runs/san_pg-cpu --seen pit --unseen unseen --sheet sheet.jpg

The error is the mean absolute difference over texels on the body, in [-1, 1] (2 is black against
white), against the true texture averaged to the size that the run paints.  Beside it stand two
predictors that do not look at the picture, fitted on the people of ``--seen``: the mean texture,
and the one color that is nearest to all texels.

Of a part network that learned places on the body, pictures are unwrapped instead:

    crosscam train parts-cpu data.name=rendered data.root=people method.surface=2 --out places
    python benchmarks/texture.py places --seen people --unseen unseen

Its textures leave texels unknown, so the error stands beside the share that is known, as they are
and filled from the other side of the body, and once more over all texels with the mean texture in
those that are left.  The same follows for the true places, which is what light and resolution cost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from crosscam import annotate, embedder, synth
from crosscam.cli import told
from crosscam.data import datasets
from crosscam.data.store import ImageStore
from crosscam.image import Preprocess, decode, resize
from crosscam.priors import surface
from crosscam.priors.rendered import SIZE, known_texels
from crosscam.priors.rows import shrink_textures
from crosscam.synth import read_texture
from crosscam.types import Sample

Floats = npt.NDArray[np.float32]


def truth(root: Path, pids: Sequence[int], side: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """True textures [N, side, side, 3] in [-1, 1], and which texels are on the body."""
    people = sorted(set(pids))
    colors = np.stack([read_texture(root, pid)[0] for pid in people])
    small, known = shrink_textures(colors, known_texels(256), side)
    assert known is not None
    index = {pid: i for i, pid in enumerate(people)}
    return (small[[index[p] for p in pids]] / 127.5 - 1).astype(np.float32), known


def paint(method: torch.nn.Module, pre: Preprocess, pictures: npt.NDArray[np.uint8]) -> Floats:
    """Painted textures [N, T, T, 3] in [-1, 1]."""
    made = []
    with torch.inference_mode():
        for i in range(0, len(pictures), 64):
            images = pre.normalize_tensor(torch.from_numpy(pictures[i : i + 64]))
            made.append(method.predict(images).permute(0, 2, 3, 1).numpy())  # type: ignore[operator]
    return np.concatenate(made)


def error(painted: Floats, true: Floats, known: npt.NDArray[np.bool_]) -> float:
    return float(np.abs(painted - true)[:, known].mean())


def shown(texture: Floats, known: npt.NDArray[np.bool_] | None, side: int) -> npt.NDArray[np.uint8]:
    colors = np.rint((texture + 1) * 127.5).astype(np.uint8)
    if known is not None:
        colors[~known] = 64
    return resize(colors, (side, side))


def sheet(columns: Sequence[Sequence[npt.NDArray[np.uint8]]], across: int) -> Image.Image:
    """Tiles of equal height, put together item by item."""
    items = [np.concatenate([*tiles, np.full((tiles[0].shape[0], 8, 3), 255, np.uint8)], 1)
             for tiles in columns]  # fmt: skip
    rows = [np.concatenate(items[i : i + across], 1) for i in range(0, len(items), across)]
    gap = np.full((8, rows[0].shape[1], 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([x for row in rows for x in (row, gap)]))


Bools = npt.NDArray[np.bool_]


def unwrapped(
    run: annotate.Run, samples: Sequence[Sample], side: int, root: Path, of_truth: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Textures [N, side, side, 4] of pictures, as they are and filled from the other side."""
    made = []
    for sample in samples:
        picture = run.preprocess.load(sample.path)
        if of_truth:
            labels = synth.read_labels(root, f"{sample.path.parent.name}/{sample.path.name}")
            points = surface.points(labels.iuv)
            picture = resize(picture, SIZE)
        else:
            points = surface.points(run.located(picture[None], run.preprocess.size)[0])
        made.append(surface.unwrap(picture, points, side))
    return np.stack(made), np.stack([surface.fill(one) for one in made])


def report_unwrapped(options: argparse.Namespace) -> None:
    """The table of a part network."""
    run = annotate.Run(options.run, "cpu")
    side = surface.side_of(run.preprocess.size[0])
    people = {s.pid for s in datasets.load("rendered", options.seen).require_train()}
    learned, known = truth(options.seen, sorted(people), side)
    unseen = datasets.load("rendered", options.unseen, pairs=True).train
    true, _ = truth(options.unseen, [s.pid for s in unseen], side)
    mean = np.broadcast_to(learned.mean(0), true.shape)
    print(f"pictures of unseen people {len(unseen)}, side {side}")
    print(f"mean texture, all texels {error(mean, true, known):.3f}")
    print(f"{'':36s}   known  error   mean texture there   all texels")
    for name, of_truth in ((run.name, False), ("true places", True)):
        pair = unwrapped(run, unseen, side, options.unseen, of_truth)
        for how, made in zip(("", ", other side filled in"), pair, strict=True):
            seen: Bools = made[..., 3] > 0
            colors = (made[..., :3] / np.float32(127.5) - 1).astype(np.float32)
            whole = np.where(seen[..., None], colors, mean)
            far, plain = np.abs(whole - true)[seen].mean(), np.abs(mean - true)[seen].mean()
            share = seen[:, known].mean()
            print(f"{name + how:36s}{share:8.3f}{far:7.3f}{plain:21.3f}"
                  f"{error(whole, true, known):13.3f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--seen", type=Path, help="the rendered set it was trained on")
    parser.add_argument("--unseen", type=Path, help="another one, with pairs")
    parser.add_argument("--pictures", type=Path, nargs="*", help="for a sheet of these instead")
    parser.add_argument("--count", type=int, default=12, help="people on the sheet")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    method, recipe, _ = embedder.load_method(options.run)
    if hasattr(method, "locate"):
        report_unwrapped(options)
        return
    method.eval()
    pre = recipe.test_preprocess
    side = pre.size[0]

    if options.pictures:
        pictures = [decode(p) for p in options.pictures]
        inputs = np.stack([resize(p, pre.size) for p in pictures])
        painted = paint(method, pre, inputs)
        known = known_texels(256)
        _, known = shrink_textures(np.zeros((1, 256, 256, 3), np.uint8), known, side)
        tiles = [[resize(p, (128, 64)), shown(t, known, 128)]
                 for p, t in zip(pictures, painted, strict=True)]  # fmt: skip
        sheet(tiles, 4).save(options.sheet)
        return

    def pairs(root: Path) -> tuple[Sample, ...]:
        return datasets.load("rendered", root, pairs=True).train

    seen, unseen = pairs(options.seen), pairs(options.unseen)
    learned, known = truth(options.seen, sorted({s.pid for s in seen}), side)
    true, _ = truth(options.unseen, [s.pid for s in unseen], side)
    mean = learned.mean(0)
    color = np.median(learned[:, known].reshape(-1, 3), 0)  # minimizes the absolute difference
    inputs = np.asarray(ImageStore.build(unseen, pre).images)
    painted = paint(method, pre, inputs)
    again = seen[:: max(1, len(seen) // len(unseen))]
    known_people, _ = truth(options.seen, [s.pid for s in again], side)
    fitted = paint(method, pre, np.asarray(ImageStore.build(again, pre).images))
    print(f"people trained on {len(learned)}, pictures of unseen people {len(unseen)}, side {side}")
    print(f"one color      {error(np.broadcast_to(color, true.shape), true, known):.3f}")
    print(f"mean texture   {error(np.broadcast_to(mean, true.shape), true, known):.3f}")
    print(f"{options.run.name:14s} {error(painted, true, known):.3f}")
    print(f"  on people it was trained on {error(fitted, known_people, known):.3f}")
    if options.sheet:
        step = max(1, len(unseen) // options.count)
        tiles = [
            [resize(decode(unseen[i].path), (128, 64)), shown(painted[i], known, 128),
             shown(true[i], known, 128)]
            for i in range(0, step * options.count, step)
        ]  # fmt: skip
        sheet(tiles, 3).save(options.sheet, quality=88)


if __name__ == "__main__":
    sys.exit(told(main))
