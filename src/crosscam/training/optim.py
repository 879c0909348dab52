"""How weights move: learning rate, optimizers, and the average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from crosscam.methods import Method
from crosscam.recipe import OptimizerSettings, ScheduleSettings

__all__ = ["Average", "averaged", "learning_rate", "make_optimizers"]


def learning_rate(peak: float, schedule: ScheduleSettings, epoch: float) -> float:
    """The learning rate at ``epoch`` (with its fraction; epoch 0.0 is the first step)."""
    if schedule.every == "epoch":
        epoch = math.floor(epoch)
    warm = 0.0 if schedule.warmup == "none" else schedule.warmup_epochs
    if epoch < warm:
        a = epoch / warm
        if schedule.warmup == "linear":
            return peak * (schedule.warmup_start * (1 - a) + a)
        return float(peak * schedule.warmup_start ** (1 - a))
    if schedule.kind == "step":
        return float(peak * schedule.gamma ** sum(epoch >= m for m in schedule.milestones))
    if schedule.kind == "cosine":
        a = (epoch - warm) / max(schedule.epochs - warm, 1e-9)
        return peak * (schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * a)))
    return peak


def make_optimizers(method: Method, settings: OptimizerSettings) -> list[torch.optim.Optimizer]:
    """The optimizer of the recipe, and one plain SGD per parameter that a method sets apart.

    A parameter of a submodule with a float ``own_sgd_lr`` (the centers of the center loss)
    is moved by SGD at that fixed rate, without decay.
    """
    own: dict[nn.Parameter, float] = {}
    for module in method.modules():
        rate = getattr(module, "own_sgd_lr", None)
        if isinstance(rate, float):
            own |= dict.fromkeys(module.parameters(recurse=False), rate)
    backbone = {p for n, p in method.named_parameters() if n.startswith("backbone.")}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if not parameter.requires_grad or parameter in own:
            continue
        decay = settings.weight_decay if settings.decay_all or parameter.ndim > 1 else 0.0
        factor = settings.backbone_lr if parameter in backbone else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    made = [
        {"params": p, "weight_decay": decay, "lr_factor": factor, "fixed_lr": 0.0}
        for (decay, factor), p in groups.items()
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if settings.name == "sgd":
        optimizers.append(
            torch.optim.SGD(
                made,
                settings.lr,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
            )
        )
    elif settings.name == "adamw":
        optimizers.append(torch.optim.AdamW(made, settings.lr, betas=settings.betas))
    else:
        amsgrad = settings.name == "amsgrad"
        optimizers.append(
            torch.optim.Adam(made, settings.lr, betas=settings.betas, amsgrad=amsgrad)
        )
    for parameter, rate in own.items():
        group = {"params": [parameter], "lr_factor": 1.0, "fixed_lr": rate}
        optimizers.append(torch.optim.SGD([group], rate))
    return optimizers


class Average:
    """Exponential moving average of weights: a <- d a + (1 - d) w after every step.

    Early on d is limited to (1 + t) / (10 + t), so that the random first weights are forgotten.
    Integer buffers are copied.
    """

    def __init__(self, method: Method, decay: float) -> None:
        self.decay = decay
        self.tensors = {k: v.detach().clone() for k, v in method.state_dict().items()}
        self.tensors["updates"] = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self, method: Method) -> None:
        t = int(self.tensors["updates"])
        decay = min(self.decay, (1 + t) / (10 + t))
        old, new = [], []
        for key, value in method.state_dict().items():
            if value.is_floating_point():
                old.append(self.tensors[key])
                new.append(value)
            else:
                self.tensors[key].copy_(value)
        torch._foreach_lerp_(old, new, 1 - decay)
        self.tensors["updates"] += 1

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for key, value in tensors.items():
            self.tensors[key].copy_(value)


@contextlib.contextmanager
def averaged(method: Method, average: Average | None) -> Iterator[None]:
    """The method with its averaged weights, in evaluation mode; back to before afterwards."""
    was_training = method.training
    method.eval()
    if average is None:
        yield
    else:
        kept = {k: v.detach().clone() for k, v in method.state_dict().items()}
        method.load_state_dict({k: v for k, v in average.tensors.items() if k != "updates"})
        try:
            yield
        finally:
            method.load_state_dict(kept)
    method.train(was_training)
