"""How far the joints of one producer are from those of another, on the same pictures.

    python benchmarks/priors.py NAME ROOT ONE TWO

ONE and TWO are folders of priors with keypoints (``crosscam prior keypoints``).  Printed for each
joint that both have: the mean and the median distance as a share of the picture's height (the
picture counted as 2 : 1), over pictures where both see the joint, and how many those are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from crosscam.cli import told
from crosscam.data import datasets
from crosscam.errors import DataError
from crosscam.priors import store
from crosscam.types import Prior


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("root", type=Path)
    parser.add_argument("folders", nargs=2, type=Path, metavar="PRIORS")
    options = parser.parse_args()
    dataset = datasets.load(options.name, options.root, partial=True)
    samples = dataset.require_train()
    points, joints = [], []
    for folder in options.folders:
        found = store.find(folder, Prior.KEYPOINTS)
        if found is None:
            raise DataError(
                f"{folder} has no keypoints. Make them: crosscam prior keypoints {options.name} "
                f"--root {options.root} --out {folder}"
            )
        rows = found.require(samples, dataset.root)
        points.append(np.where(rows[:, None, None] < 0, 0, np.asarray(found.values[rows], float)))
        joints.append(found.names)
    distances = []
    for joint in [j for j in joints[0] if j in joints[1]]:
        one, two = (p[:, names.index(joint)] for p, names in zip(points, joints, strict=True))
        seen = (one[:, 2] >= 0.2) & (two[:, 2] >= 0.2)
        apart = np.hypot(*((one - two)[seen, :2] * [0.5, 1]).T)
        distances.append(apart)
        print(f"{joint:16s} {apart.mean():.3f}  {np.median(apart):.3f}  {seen.sum():6,}")
    every = np.concatenate(distances)
    print(f"{'all':16s} {every.mean():.3f}  {np.median(every):.3f}  {len(every):6,}")


if __name__ == "__main__":
    sys.exit(told(main))
