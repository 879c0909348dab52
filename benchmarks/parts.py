"""How far the part masks of two producers agree, on the training pictures of a data set.

    python benchmarks/parts.py NAME ROOT ONE TWO [--count 1000]

ONE and TWO are folders of priors, each with one producer's masks (``crosscam prior masks``).
Printed for whole, upper and lower, and for every label that both know: intersection over union,
over all cells of all pictures, and the mean over the pictures in which one of the two has some.
A picture that one of them has no mask for is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from crosscam.cli import told
from crosscam.data import datasets
from crosscam.errors import DataError
from crosscam.priors import labels, store
from crosscam.types import Prior


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("root", type=Path)
    parser.add_argument("folders", nargs=2, type=Path, metavar="PRIORS")
    parser.add_argument("--count", type=int, default=0, help="pictures, evenly spread; 0 is all")
    options = parser.parse_args()
    dataset = datasets.load(options.name, options.root, partial=True)
    samples = dataset.require_train()
    if options.count:
        samples = samples[:: max(len(samples) // options.count, 1)][: options.count]
    sets, rows = [], []
    for folder in options.folders:
        found = store.find(folder, Prior.MASKS)
        if found is None:
            raise DataError(
                f"{folder} has no masks. Make them: crosscam prior masks {options.name} "
                f"--root {options.root} --out {folder}"
            )
        sets.append(found)
        rows.append(found.require(samples, dataset.root))
    both = (rows[0] >= 0) & (rows[1] >= 0)
    maps = [s.values[r[both]] for s, r in zip(sets, rows, strict=True)]
    usable = np.all([m.any((1, 2)) for m in maps], axis=0)
    maps = [m[usable] for m in maps]
    print(f"{usable.sum():,} pictures of {len(samples):,}; {sets[0].producer}, {sets[1].producer}")
    print(f"{'':14s}{'all cells':>10s}{'a picture':>10s}{'pictures':>10s}")
    shared = [n for n in sets[0].names[1:] if n in sets[1].names[1:]]
    for part in ("whole", "upper", "lower", *(n for n in shared if n not in labels.CHANNELS)):
        one, two = (
            labels.channel_table(s.names, [part])[:, 0][m] > 0
            for s, m in zip(sets, maps, strict=True)
        )
        met, any_ = (one & two).sum((1, 2)), (one | two).sum((1, 2))
        some = any_ > 0
        each = (met[some] / any_[some]).mean() if some.any() else float("nan")
        print(f"{part:14s}{met.sum() / max(any_.sum(), 1):10.3f}{each:10.3f}{some.sum():10,}")


if __name__ == "__main__":
    sys.exit(told(main))
