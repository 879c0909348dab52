"""Renders the pictures that `crosscam doctor` looks at when it is given none.

    python benchmarks/doctor_sheet.py src/crosscam/assets/doctor.jpg

24 people as columns, seen by 4 cameras as rows, 128x64 pixels each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from crosscam.cli import told
from crosscam.image import resize
from crosscam.synth.camera import draw_camera
from crosscam.synth.identity import draw_identity
from crosscam.synth.person import make_person
from crosscam.synth.render import Look, render_shot

SEED, PEOPLE, CAMERAS = 7001, 24, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    look = Look(occluder=0.0, neighbors=(0.8, 0.2, 0.0), neighbor_front=0.0, cut=0.0)
    columns = []
    for number in range(PEOPLE):
        person = make_person(draw_identity(SEED, number))
        shots = [
            render_shot(person, draw_camera(SEED, c + 1), 10 * number + c, look)
            for c in range(CAMERAS)
        ]
        crops = [resize(np.asarray(s.image, np.uint8), (128, 64)) for s in shots]
        columns.append(np.concatenate(crops, axis=0))
    Image.fromarray(np.concatenate(columns, axis=1)).save(out, quality=80)


if __name__ == "__main__":
    sys.exit(told(main))
