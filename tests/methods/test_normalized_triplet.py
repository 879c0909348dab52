"""``normalize``: the triplet of any method compares features of length one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crosscam.methods import BackboneSettings, Method
from crosscam.methods.baseline import Baseline
from crosscam.methods.mmga import MMGA
from crosscam.methods.msfl import MSFL
from crosscam.methods.san import SAN
from crosscam.nn import losses
from crosscam.types import Batch

SMALL = BackboneSettings("resnet18", width=0.125, last_stride=1)
METHODS: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "baseline": (Baseline, {"embedding": 8}),
    "msfl": (MSFL, {"embedding": 8, "width": 8, "refine_width": 4}),
    "san": (SAN, {"embedding": 8, "reconstruction": 0.0, "constraint": 0.0}),
    "mmga": (MMGA, {"features": 8, "masks": 0.0}),
}


def hinge(features: Tensor, pids: Tensor, margin: float) -> float:
    """Batch-hard hinge of unit features, anchor by anchor."""
    rows = [f / f.norm() for f in features.detach()]
    total = 0.0
    for i, anchor in enumerate(rows):
        to = [float((anchor - other).norm()) for other in rows]
        farthest = max(d for d, pid in zip(to, pids, strict=True) if pid == pids[i])
        nearest = min(d for d, pid in zip(to, pids, strict=True) if pid != pids[i])
        total += max(0.0, farthest - nearest + margin)
    return total / len(rows)


@pytest.mark.parametrize("name", METHODS)
def test_the_triplet_compares_unit_features(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Tensor] = []
    plain = losses.batch_hard_triplet

    def watched(features: Tensor, *rest: Any, **options: Any) -> Tensor:
        compared.append(features)
        return plain(features, *rest, **options)

    monkeypatch.setattr(losses, "batch_hard_triplet", watched)
    torch.manual_seed(1)
    kind, options = METHODS[name]
    method = kind(3, backbone=SMALL, margin=0.2, normalize=True, triplet=2.0, **options).train()
    images = torch.randn(6, 3, 64, 32, generator=torch.Generator().manual_seed(2))
    pids = torch.tensor([0, 0, 1, 1, 2, 2])
    found = method(Batch(images, pids, torch.zeros_like(pids)))["triplet"]
    expected = sum(hinge(f, pids, 0.2) for f in compared) / len(compared)
    assert expected > 0
    assert float(found.detach()) == pytest.approx(2 * expected, rel=1e-5)
