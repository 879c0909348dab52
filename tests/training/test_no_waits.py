"""Nothing in a step reads a value from the device, so that the host never waits for a GPU.

Tensors on PyTorch's "meta" device have no values: whoever reads one gets an error, and so does who
mixes them with tensors of the host.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from crosscam.data.augment import Augment
from crosscam.data.loader import TrainLoader
from crosscam.data.samplers import make_sampler
from crosscam.image import Preprocess
from crosscam.methods import BackboneSettings, Method, find
from crosscam.nn import sync
from crosscam.priors import labels
from crosscam.priors.rows import MaskRows, Rows, TextureRows
from crosscam.recipe import OptimizerSettings
from crosscam.training import loop
from crosscam.training.optim import Average, make_optimizers
from crosscam.training.passes import Plain
from crosscam.types import BODY_PARTS, Prior

NOWHERE = torch.device("meta")
SIZE = (32, 16)
NAMES = (*BODY_PARTS, "hair", "hat", "top", "bottom", "shoes", "bag")
EVERYTHING = Augment(resize_crop=0.5, jitter=0.5, hue=0.1, erase_priors=True)
SAN = {"embedding": 8, "decoder_width": 0.0625}
MPN = {"width": 8, "num_parts": 2}


@pytest.fixture(autouse=True)
def _autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast knows no meta device; the host's does for it."""

    class Anywhere(torch.autocast):
        def __init__(self, device_type: str, *arguments: Any, **options: Any) -> None:
            name = "cpu" if device_type == "meta" else device_type
            super().__init__(name, *arguments, **options)

    monkeypatch.setattr(torch, "autocast", Anywhere)


class Sent(TorchFunctionMode):
    """Collects who makes a tensor of the device from numbers of the host, which then waits."""

    def __init__(self) -> None:
        super().__init__()
        self.by: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        from_numbers = (torch.Tensor.new_tensor, torch.tensor, torch.as_tensor, torch.asarray)
        if func in from_numbers and made.device == NOWHERE:
            self.by.append(func.__name__)
        return made


def test_what_is_sent_from_the_host_is_seen() -> None:
    with Sent() as sent:
        torch.zeros(2, device=NOWHERE).new_tensor(1.0)
        torch.tensor(1.0)
    assert sent.by == ["new_tensor"]


def test_synchronized_statistics_send_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync.dist, "all_reduce", lambda tensor: None)
    norm = sync.SyncBatchNorm(torch.nn.BatchNorm2d(3, device=NOWHERE))
    with Sent() as sent:
        y = norm(torch.zeros(4, 3, 2, 2, device=NOWHERE))
    assert y.shape == (4, 3, 2, 2)
    assert not sent.by


def build(name: str, **options: Any) -> Method:
    with NOWHERE:
        backbone = BackboneSettings("resnet18", width=0.125)
        method: Method = find(name)(6, backbone=backbone, **options)  # type: ignore[call-arg]
    method.schedule(0.99)  # with losses that join late
    return method.train()


def gone(kept: Rows) -> Rows:
    """With all it has on the device, as where there is a GPU."""
    for name, value in vars(kept).items():
        if isinstance(value, torch.Tensor):
            setattr(kept, name, value.to(NOWHERE))
    kept.device = NOWHERE  # type: ignore[misc]
    return kept


def loader(method: Method) -> TrainLoader:
    ids = np.repeat(np.arange(6), 4)
    each = np.arange(len(ids))
    priors: dict[Prior, Rows] = {}
    if Prior.MASKS in method.needs:
        table = labels.channel_table(NAMES, method.parts)
        maps = np.zeros((len(ids), 16, 8), np.uint8)
        priors[Prior.MASKS] = gone(MaskRows(maps, each, table, NOWHERE))
    if Prior.TEXTURE in method.needs:
        textures, known = np.zeros((6, 32, 32, 3), np.uint8), np.ones((32, 32), np.bool_)
        priors[Prior.TEXTURE] = gone(TextureRows(textures, known, ids, NOWHERE))
    images = torch.zeros(len(ids), *SIZE, 3, dtype=torch.uint8, device=NOWHERE)
    sampler = make_sampler("grouped", ids, 2, 4, 0)
    pre = Preprocess(size=SIZE)
    return TrainLoader(
        images, ids, ids, sampler, EVERYTHING, pre, seed=0, device=NOWHERE, priors=priors
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("baseline", {}),
        ("baseline", {"pool": "gem", "dropout": 0.5, "embedding": 8, "msgr": 0.01}),
        ("baseline", {"msgr": 0.01, "msgr_adversarial": True}),
        ("mpn", {**MPN, "align_by": "sample"}),
        ("mpn", {**MPN, "prior": "extent", "statistics": "split"}),
        ("mpn", {**MPN, "prior": "parsing", "regions": ("upper", "lower"), "attention": True}),
        ("mpn", {**MPN, "neck": "msfl", "neck_width": 8}),
        ("san", SAN),
        ("san", {**SAN, "constraint_form": "paper", "alternate": False}),
        ("san_pg", {"decoder_width": 0.0625}),
        ("msfl", {"width": 8, "refine_width": 8, "embedding": 8, "msgr": 0.01}),
        ("mmga", {"features": 8}),
        ("parts", {}),
        ("mpn+guidance+texture", {**MPN, "texture_width": 0.0625, "texture_constraint": 0.1}),
    ],
)
def test_a_step_reads_nothing_from_the_device(name: str, options: dict[str, Any]) -> None:
    method = build(name, **options)
    updates = make_optimizers(method, OptimizerSettings("amsgrad"))
    average = Average(method, 0.9)
    made = 0
    with Sent() as sent:
        for batch in loader(method).epoch(0):
            terms = loop.learn(batch, Plain(method, method, half=True), updates, norm=5.0)
            average.update(method)
            assert terms
            assert all(term.device == NOWHERE for term in terms.values())
            made += 1
    assert made == 3
    assert not sent.by
    moved = [p for p in method.parameters() if p.grad is not None]
    assert moved
    assert all(p.grad.device == NOWHERE for p in moved if p.grad is not None)


def test_who_reads_a_value_is_found() -> None:
    """The check itself: without labels on the host SAN must read those of the device."""
    method = build("san", **SAN)
    batch = next(loader(method).epoch(0))
    method(batch, 1)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        method(dataclasses.replace(batch, labels=None), 1)
