"""How well MMGA's attention finds the body: maps beside the masks they should be like.

    python benchmarks/attention.py RUN NAME ROOT PRIORS [--count 400] [--sheet sheet.png]

RUN is a run of MMGA, NAME and ROOT a data set whose training pictures have masks in PRIORS
(``crosscam prior masks``); take pictures that the run has not learned from.  Printed for every
attention map: the mean probability that a cell of the body part has more attention than a cell off
it (area under the ROC curve; one half is chance, and pictures without the part, or without
anything else, are left out), for the map and, as what is easy, for the mean mask of all pictures.
The sheet has the first pictures, each with mask and attention.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from crosscam import embedder, viz
from crosscam.cli import told
from crosscam.data import datasets
from crosscam.explain import maps_of
from crosscam.methods.mmga import MMGA
from crosscam.priors.rows import gather
from crosscam.types import Prior

SHOWN = 8


def area_under_curve(values: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> float:
    """Share of (inside, outside) pairs of cells in order; ties count half."""
    a, b = values[inside], values[~inside]
    more = (a[:, None] > b[None, :]).mean() + 0.5 * (a[:, None] == b[None, :]).mean()
    return float(more)


def part_of(name: str) -> str:
    """The mask that guides an attention map."""
    return "whole" if name == "scale1" else name


def main() -> None:
    """Print the table, draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("root", type=Path)
    parser.add_argument("priors", type=Path)
    parser.add_argument("--count", type=int, default=400, help="pictures, evenly spread")
    parser.add_argument("--sheet", type=Path, help="PNG or JPEG file")
    options = parser.parse_args()
    model = embedder.load(options.run)
    method = model.method
    if not isinstance(method, MMGA):
        raise SystemExit(f"{options.run} is no run of MMGA.")
    dataset = datasets.load(options.name, options.root)
    samples = dataset.require_train()
    chosen = np.linspace(0, len(samples) - 1, min(options.count, len(samples))).astype(int)
    parts = ("whole", "upper", "lower")
    masks = gather(
        frozenset([Prior.MASKS]), parts, dataset, folder=options.priors, producers={},
        cache=options.priors, size=model.preprocess.size, device=torch.device("cpu"),
    ).rows[Prior.MASKS].index_select(0, torch.from_numpy(chosen)).float() / 255  # fmt: skip
    pictures = [model.preprocess.load(samples[i].path) for i in chosen]
    images = model.preprocess.normalize_tensor(torch.from_numpy(np.stack(pictures)))
    found: dict[str, list[torch.Tensor]] = {}
    for some in torch.split(images, 32):
        for name, values in maps_of(method, some).items():
            if name in method.attention:
                found.setdefault(name, []).append(values)
    attention = {name: torch.cat(values) for name, values in found.items()}

    print(f"{len(chosen)} pictures of {dataset.title}; {options.run}")
    for name, values in attention.items():
        mask = masks[:, parts.index(part_of(name))]
        cells = torch.nn.functional.adaptive_avg_pool2d(mask, (values.shape[1], values.shape[2]))
        mean = cells.mean(0).numpy()
        inside = (cells > 0.5).numpy()
        both = [i for i in range(len(inside)) if inside[i].any() and not inside[i].all()]
        own = np.mean([area_under_curve(values[i].numpy(), inside[i]) for i in both])
        easy = np.mean([area_under_curve(mean, inside[i]) for i in both])
        print(f"{name:8} {own:.3f}   the mean mask {easy:.3f}   {len(both)} pictures")
    if options.sheet:
        step = max(1, len(chosen) // SHOWN)
        rows = range(0, len(chosen), step)[:SHOWN]
        blocks = [viz.Block("", [""], [[pictures[i]] for i in rows])]
        for name, values in attention.items():
            part = part_of(name)
            drawn = [
                [
                    viz.overlay(pictures[i], m[i].numpy())
                    for m in (masks[:, parts.index(part)], values)
                ]
                for i in rows
            ]
            blocks.append(viz.Block(name, [f"mask, {part}", "attention"], drawn))
        print(viz.sheet(options.sheet, blocks))


if __name__ == "__main__":
    sys.exit(told(main))
