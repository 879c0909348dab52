"""How people stand and walk: bone rotations drawn from a seeded generator.

Gait is procedural: hips and arms swing in counter-phase, the knee bends in the swing phase, the
trunk twists against the pelvis.  Angles are in degrees where written, radians inside.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.synth.body import body

__all__ = ["POSES", "draw_pose"]

Array = npt.NDArray[Any]

POSES = ("walk", "stand", "phone", "call", "pockets", "carry", "umbrella", "run")
_CHANCE = (0.52, 0.13, 0.10, 0.05, 0.06, 0.08, 0.0, 0.06)


def _about(axis: str, degrees: float) -> Array:
    a = math.radians(degrees)
    c, s = math.cos(a), math.sin(a)
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    return np.array(rows, np.float32)


def _around(axis: Array, degrees: float) -> Array:
    """Rotation about any axis (Rodrigues)."""
    x, y, z = axis / (np.linalg.norm(axis) + 1e-9)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = math.radians(degrees)
    result: Array = (np.eye(3) + math.sin(a) * k + (1 - math.cos(a)) * k @ k).astype(np.float32)
    return result


def draw_pose(
    rng: np.random.Generator, heads: Array, holds: str = ""
) -> tuple[str, dict[str, Array]]:
    """(name of the pose, bone rotations) for a body whose bone heads at rest are ``heads``.

    ``holds`` is "umbrella" for who holds one up in the right hand, "bag" for who carries one at
    the hand, else "".
    """
    shared = body()
    at = {name: heads[i] for name, i in shared.bone.items()}
    kind = "umbrella" if holds == "umbrella" else str(rng.choice(POSES, p=_CHANCE))
    if holds == "bag" and kind in ("pockets", "run"):
        kind = "walk"
    still = kind in ("stand", "carry", "umbrella") and rng.random() < (
        1.0 if kind == "stand" else 0.3
    )
    phase = rng.uniform(0, 2 * math.pi)
    stride = rng.uniform(0, 5) if still else rng.uniform(14, 30)
    swing = 3.0 if still else rng.uniform(6, 26)
    if kind == "run":
        stride, swing = rng.uniform(30, 42), rng.uniform(25, 40)
    turns: dict[str, Array] = {}
    lean = rng.normal(4 if kind == "run" else 1.5, 3)
    for side, own_phase, sign in (("L", phase, 1.0), ("R", phase + math.pi, -1.0)):
        leg = stride * math.sin(own_phase)
        lifted = max(0.0, math.cos(own_phase)) ** 1.5
        knee = rng.uniform(2, 7) + (1.9 if kind != "run" else 2.2) * stride * lifted
        # Feet at rest stand wide apart; walkers bring them under the hips.
        inward = rng.normal(5.5, 1.5) - (3.0 if still else 0.0)
        turns["upperleg01." + side] = _about("x", -leg - 0.15 * knee) @ _about("y", sign * inward)
        turns["lowerleg01." + side] = _about("x", knee)
        turns["foot." + side] = _about("x", 0.25 * knee * lifted - 0.25 * leg)

        upper = at["lowerarm01." + side] - at["upperarm01." + side]
        below = math.degrees(math.atan2(upper[0] * sign, -upper[2]))
        lowered = _about("y", sign * (below - rng.uniform(6, 16)))
        forward = swing * math.sin(own_phase)
        # The rest pose bends the elbow by some 40 degrees; arms that hang are nearly straight.
        bend = rng.uniform(-34, -18) + max(0.0, -math.sin(own_phase)) * 16
        to = np.array([-sign * 0.15, -1.0, 0.0])
        right = side == "R"
        if kind == "run":
            bend += 85
        elif kind == "phone" and (right or rng.random() < 0.3):
            forward, bend = -rng.uniform(8, 28), rng.uniform(45, 80)
            to = np.array([-sign * 0.5, -1.0, 0.0])
        elif kind == "call" and right:
            forward, bend = -rng.uniform(15, 35), rng.uniform(90, 108)
            to = np.array([sign * 0.05, -0.7, 0.75])
        elif kind == "pockets":
            forward, bend = rng.uniform(2, 14), rng.uniform(0, 14)
            to = np.array([-sign * 0.9, -0.6, 0.0])
        elif kind == "carry":
            forward, bend = -rng.uniform(2, 22), rng.uniform(35, 70)
            to = np.array([-sign * 0.6, -1.0, 0.0])
        elif kind == "umbrella" and right:
            forward, bend = -rng.uniform(20, 30), rng.uniform(70, 88)
        turns["shoulder01." + side] = _about("y", sign * 4)
        turns["upperarm01." + side] = _about("x", forward) @ lowered
        turns["lowerarm01." + side] = _around(np.cross(upper, to), bend)
        curl = rng.uniform(18, 45)
        pointing = at["finger3-3." + side] - at["finger3-1." + side]
        axis = np.cross(pointing, np.array([-sign, -0.2, -0.2]))
        for finger in range(2, 6):
            for joint in (1, 2):
                turns[f"finger{finger}-{joint}.{side}"] = _around(axis, curl)
    twist = 0.3 * stride * math.sin(phase)
    turns["spine03"] = _about("z", -twist) @ _about("x", lean)
    turns["spine05"] = _about("z", 0.5 * twist)
    nod = rng.normal(18 if kind == "phone" else 4, 8)
    turns["head"] = _about("x", nod) @ _about("z", rng.normal(0, 20))
    return kind, turns
