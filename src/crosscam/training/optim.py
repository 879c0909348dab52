"""How weights move: learning rate, optimizers, and the average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosscam.methods import Adam, Method
from crosscam.recipe import OptimizerSettings, ScheduleSettings

__all__ = ["Average", "averaged", "learning_rate", "make_optimizers", "straighten"]


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


def make_optimizers(
    method: Method, settings: OptimizerSettings
) -> list[list[torch.optim.Optimizer]]:
    """The optimizers of every update of ``method``, in order.

    An update has the optimizer of the recipe, and one Adam for all that it keeps Adams for.  A
    parameter of a submodule with a float ``own_sgd_lr`` (the centers of the center loss) is moved
    by a plain SGD at that fixed rate, without decay or clipping, in every update that moves it.

    On a GPU a step of an Adam is fused; on a CPU the sums are those of PyTorch's plain loop.  An
    SGD is not: fused, it cannot take up a parameter that had no gradient in the first step.
    """
    own: dict[nn.Parameter, float] = {}
    for module in method.modules():
        rate = getattr(module, "own_sgd_lr", None)
        if isinstance(rate, float):
            own |= dict.fromkeys(module.parameters(recurse=False), rate)
    backbone = {p for n, p in method.named_parameters() if n.startswith("backbone.")}
    made: list[list[torch.optim.Optimizer]] = []
    for update in method.updates():
        moved = [p for p in update.parameters() if p.requires_grad]
        kept = {p for adam in update.adams for p in adam.parameters()}
        rest = [p for p in moved if p not in own and p not in kept]
        optimizers: list[torch.optim.Optimizer] = []
        if rest:
            optimizers.append(_of_recipe(rest, backbone, settings))
        if update.adams:
            groups = [_group_of(adam, settings.lr) for adam in update.adams]
            optimizers.append(torch.optim.Adam(groups, settings.lr, fused=_on_gpu(moved)))
        for parameter in (p for p in moved if p in own):
            rate = own[parameter]
            group = {"params": [parameter], "lr_factor": 1.0, "fixed_lr": rate, "clip": False}
            optimizers.append(torch.optim.SGD([group], rate))
        made.append(optimizers)
    return made


def _group_of(adam: Adam, peak: float) -> dict[str, Any]:
    parameters = [p for p in adam.parameters() if p.requires_grad]
    factor, fixed = (adam.lr / peak, 0.0) if adam.scheduled else (0.0, adam.lr)
    return {
        "params": parameters,
        "lr": adam.lr,
        "betas": adam.betas,
        "lr_factor": factor,
        "fixed_lr": fixed,
    }


def _of_recipe(
    parameters: Sequence[nn.Parameter], backbone: set[nn.Parameter], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        decay = settings.weight_decay if settings.decay_all or parameter.ndim > 1 else 0.0
        factor = settings.backbone_lr if parameter in backbone else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    made = [
        {"params": p, "weight_decay": decay, "lr_factor": factor, "fixed_lr": 0.0}
        for (decay, factor), p in groups.items()
    ]
    if settings.name == "sgd":
        return torch.optim.SGD(
            made, settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
        )
    fused = _on_gpu(parameters)
    if settings.name == "adamw":
        return torch.optim.AdamW(made, settings.lr, betas=settings.betas, fused=fused)
    amsgrad = settings.name == "amsgrad"
    return torch.optim.Adam(made, settings.lr, betas=settings.betas, amsgrad=amsgrad, fused=fused)


def _on_gpu(parameters: Iterable[nn.Parameter]) -> bool | None:
    """Whether a step is fused; None leaves the choice to PyTorch, which on a CPU takes a loop."""
    return True if all(p.is_cuda for p in parameters) else None


def straighten(parameters: Iterable[nn.Parameter]) -> None:
    """Give gradients on a GPU the strides of their parameters, as steps of many at once want them.

    Along dimensions of length one strides mean nothing, and who computes a gradient (a compiler
    that of a 1x1 convolution) may write any.  A fused step refuses them, others take the weights
    one by one.
    """
    for p in parameters:
        if _on_gpu([p]) and p.grad is not None and p.grad.stride() != p.stride():
            p.grad = torch.empty_like(p).copy_(p.grad)


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
