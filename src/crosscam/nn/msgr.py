"""MSGR: a penalty on the gradient of the loss with respect to inner feature maps.

Wang: "Adversarial Multi-scale Feature Learning for Person Re-identification", 2020, arXiv
2012.14061, section on the multi-scale gradient regularizer.  With F_0 the input, F_l the output of
stage l, and 1/p + 1/q = 1, training against the worst small perturbation of every chosen map,

    min over weights, max over |r_l|_p <= eps, of L(F_l + r_l)

is, to first order, a penalty, because the inner maximum has a closed form
(:func:`worst_perturbation`) that yields eps |dL/dF_l|_q:

    L_total = L + lambda * sum over l of R_l        R_l = mean over i of |B dL/dF_l,i|_q

The gradient is not detached, so training differentiates twice.  The paper: q = 2, lambda = 0.01,
l in {1, 2}.

Assumed, where the paper is silent: the norm is taken per picture i over its whole map and is not
squared; the gradient is B times that of the mean over the batch of B, which is the gradient of
the picture's own loss as far as the other losses do not see its map (batch statistics and
triplets let them); L has all terms of the method; F_1 and F_2 are the backbone's first two stages.
``square`` and ``scale="batch"`` are the other conventions (both are the author's older code).
With the defaults lambda is eps, and the adversarial training that the paper compares with needs
no setting of its own: ``adversarial`` trains on F_l + r_l, r_l from a first pass, instead.

What reads a stage of a usual network is a convolution with batch normalization behind it.  A map c
times as large then leaves L as it is and divides R_l by c, so the penalty can be lowered without
any robustness, by larger maps; the paper does not speak of that.  ``relative`` (ours) measures a
perturbation by the map it moves, |r_l,i|_p <= eps |F_l,i|_p, whose penalty

    R_l = mean over i of |F_l,i|_p |B dL/dF_l,i|_q

does not depend on c; lambda = 0.01 is then a perturbation of a hundredth of the map.

Ours, since the paper has neither: the centers of a center loss are moved by that loss alone and not
by the penalty (theirs is a gradient with the loss's small weight divided out, which would make the
penalty's share 2000 times what it is); the first pass of ``adversarial`` leaves the running
statistics of batch normalization to the second.  In mixed precision dL/dF_l comes in the type of
the maps, as every backward product does; norms, sums and R are float32.  What the penalty teaches
is then as near to float32 as what the losses teach (tested); ``engine.precision=fp32`` computes all
of it in float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from crosscam.errors import InputError, RecipeError
from crosscam.nn import layers, sync
from crosscam.nn.stages import Backbone
from crosscam.nn.twice import QuickTwice
from crosscam.types import Batch

__all__ = ["GradientRegularizer", "worst_perturbation"]

Losses = Callable[[Batch], dict[str, Tensor]]


def worst_perturbation(gradients: Tensor, eps: float, p: float) -> Tensor:
    """The r of |r|_p = eps that raises a linear function of these gradients most, row by row.

    With 1/p + 1/q = 1 (equation 3 of the derivation in the module's paper):

        r = eps sign(g) |g|^(q-1) / |g|_q^(q-1)        <g, r> = eps |g|_q

    p = inf is eps sign(g); p = 2 is eps g / |g|; p = 1 puts everything on the largest |g_i| (on
    the first of several).  A row of zeros has no worst direction and gets zeros.

    Args:
        gradients: [B, ...], one row a picture.
        eps: length of every row of the result, 0 or more.
        p: the norm of that length, 1 or more; ``math.inf`` is the maximum norm.

    Raises:
        InputError: eps below 0 or p below 1.
    """
    if not eps >= 0 or not p >= 1:
        raise InputError(f"worst_perturbation needs eps >= 0 and p >= 1, got {eps} and {p}.")
    g = gradients.flatten(1)
    g = g.to(torch.promote_types(g.dtype, torch.float32))
    largest, where = g.abs().max(1, keepdim=True)
    # Divided by its largest entry first, so that no power of a small gradient is lost.
    g = g / torch.where(largest > 0, largest, 1.0)
    if p == 1:
        r = torch.zeros_like(g).scatter(1, where, g.gather(1, where).sign())
    else:
        q = 1.0 if math.isinf(p) else p / (p - 1)
        norm = torch.linalg.vector_norm(g, q, 1, keepdim=True)
        r = g.sign() * (g.abs() / torch.where(norm > 0, norm, 1.0)).pow(q - 1)
    return (eps * r).view_as(gradients)


class GradientRegularizer:
    """Adds MSGR to the losses of any method that stands on a backbone.

    It needs the loss and the maps of the stages, nothing else of a method.  A stage that runs
    more than once counts each time.  Distributed, the gradient is that of the losses of all
    processes wherever they meet (batch statistics over all processes), so that two processes
    learn what one learns.

    Args:
        weight: lambda, above 0; the eps of the perturbation with ``adversarial``.
        stages: which maps: 0 the input, 1 to 4 the stages of the backbone.
        norm: q, of the gradient.
        square: penalize the squared norm.
        scale: gradient of each picture's own loss ("sample") or of the mean over the batch.
        relative: measure perturbations by the maps they move (ours).
        adversarial: learn from maps moved by the worst perturbation instead of the penalty.

    Raises:
        RecipeError: a value out of range.
    """

    def __init__(
        self,
        weight: float,
        stages: Sequence[int] = (1, 2),
        norm: Literal[1, 2, "inf"] = 2,
        *,
        square: bool = False,
        scale: Literal["sample", "batch"] = "sample",
        relative: bool = False,
        adversarial: bool = False,
    ) -> None:
        if not 0 < weight < math.inf:
            raise RecipeError(f"method.msgr must be 0 (off) or more, got {weight}.")
        if not stages or set(stages) - set(range(5)) or len(set(stages)) < len(stages):
            raise RecipeError(
                "method.msgr_stages must name stages 1 to 4 (0: the input), each once, got "
                f"{list(stages)}."
            )
        if norm not in (1, 2, "inf"):
            raise RecipeError(f"method.msgr_norm must be 1, 2 or inf, got {norm}.")
        self.weight, self.stages, self.q = weight, tuple(sorted(stages)), float(norm)
        self.p = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.q]  # 1/p + 1/q = 1
        self.square, self.scale, self.adversarial = square, scale, adversarial
        self.relative = relative

    def __call__(
        self,
        losses: Losses,
        batch: Batch,
        backbone: nn.Module | None,
        method: nn.Module | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms of ``losses(batch)`` with ``msgr`` beside them, and figures for the log.

        ``msgr`` is already weighted.  The figures are ``msgr_gradient`` (the sum of R_l),
        ``msgr_ratio`` (its ratio to L), which should start as a modest fraction, and ``msgr_map``
        (the mean root mean square of the maps, whose growth lowers R_l for nothing).  With
        ``adversarial`` the terms are those of the moved maps, and the figures of the plain ones,
        which leave the running statistics of ``method`` alone.

        Raises:
            RecipeError: the loss does not depend on one of the stages.
        """
        if self.adversarial:
            # Both passes drop the same inputs, or the perturbation would be of another loss.
            where = [batch.images.device] if batch.images.is_cuda else []
            with torch.random.fork_rng(where), contextlib.ExitStack() as stack:
                if method is not None:  # deployed are the statistics of the maps that are learned
                    stack.enter_context(layers.running_statistics_untouched(method))
                terms, maps, numbers = self._run(losses, batch, backbone)
            total = torch.stack(list(terms.values())).sum()
            gradients = self._gradients(total, maps, numbers, twice=False)
            moves = [
                (self._lengths(x)[(...,) + (None,) * (x.ndim - 1)] * r).to(x.dtype)
                for x, g in zip(maps, gradients, strict=True)
                for r in [worst_perturbation(g, self.weight, self.p)]
            ]
            penalty, size = self._penalty(gradients, maps), mean_size(maps)
            del terms, maps
            terms, _, _ = self._run(losses, batch, backbone, moves)
        else:
            with QuickTwice():
                terms, maps, numbers = self._run(losses, batch, backbone)
            total = torch.stack(list(terms.values())).sum()
            penalty = self._penalty(self._gradients(total, maps, numbers, twice=True), maps)
            size = mean_size(maps)
            terms["msgr"] = self.weight * penalty
        plain = penalty.detach()
        ratio = plain / total.detach()
        return terms, {"msgr_gradient": plain, "msgr_ratio": ratio, "msgr_map": size}

    def _run(
        self,
        losses: Losses,
        batch: Batch,
        backbone: nn.Module | None,
        moves: Sequence[Tensor] = (),
    ) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Terms, the maps that the loss went through, and the stage of each of them."""
        maps: list[Tensor] = []
        numbers: list[int] = []

        def pass_on(number: int, x: Tensor) -> Tensor:
            if moves:
                x = x + moves[len(maps)]
            elif not x.requires_grad:  # the input, and what frozen layers give
                x = x.detach().requires_grad_()
            maps.append(x)
            numbers.append(number)
            return x

        if 0 in self.stages:
            batch = dataclasses.replace(batch, images=pass_on(0, batch.images))
        inner = [number for number in self.stages if number]
        with _watching(backbone, inner, pass_on):
            terms = losses(batch)
        return terms, maps, numbers

    def _gradients(
        self, total: Tensor, maps: Sequence[Tensor], numbers: Sequence[int], twice: bool
    ) -> list[Tensor]:
        # Outside autocast, as every backward pass: its products keep the type of the forward's.
        with torch.autocast(total.device.type, enabled=False):
            found = torch.autograd.grad(total, maps, create_graph=twice, allow_unused=True)
        used = {number for number, g in zip(numbers, found, strict=True) if g is not None}
        for number in self.stages:
            if number not in used:
                raise RecipeError(
                    f"the loss of this method does not depend on stage {number} of its backbone: "
                    f"leave {number} out of method.msgr_stages."
                )
        return [torch.zeros_like(x) if g is None else g for g, x in zip(found, maps, strict=True)]

    def _lengths(self, maps: Tensor) -> Tensor:
        """[B] what the length of a perturbation is measured by."""
        if not self.relative:
            return maps.new_ones(len(maps), dtype=torch.promote_types(maps.dtype, torch.float32))
        return _norms(maps, self.p)

    def _penalty(self, gradients: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
        """The sum of R_l, in float32 (float64 for float64 maps)."""
        total = gradients[0].new_zeros((), dtype=torch.float32)
        for gradient, x in zip(gradients, maps, strict=True):
            # The loss of each process is the mean over its own share of the batch.
            share = len(gradient) if self.scale == "sample" else 1 / sync.world_size()
            norms = share * _norms(gradient, self.q) * self._lengths(x)  # [B]
            total = total + (norms.square() if self.square else norms).mean()
        return total


def mean_size(maps: Sequence[Tensor]) -> Tensor:
    """Root mean square of each of the ``maps``, averaged; without a graph."""
    sizes = [_norms(x.detach(), 2).square().sum() / x.numel() for x in maps]
    return torch.stack(sizes).sqrt().mean()


def _norms(x: Tensor, order: float) -> Tensor:
    """[B] norms of the rows of [B, ...], in float32 (float64 for float64 maps)."""
    if x.dim() == 4:  # in the order of channels-last maps, which are then not copied
        x = x.permute(0, 2, 3, 1)
    kind = torch.promote_types(x.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), order, 1, dtype=kind)
    return norms


@contextlib.contextmanager
def _watching(
    backbone: nn.Module | None, numbers: Sequence[int], pass_on: Callable[[int, Tensor], Tensor]
) -> Iterator[None]:
    """Sends the output of each stage through ``pass_on`` wherever a gradient is asked for."""
    if numbers and not isinstance(backbone, Backbone):
        raise RecipeError(
            "method.msgr looks at the stages of `self.backbone`, and this method has none: set "
            "method.msgr_stages=[0] to regularize at the input."
        )

    def hook(number: int) -> Callable[[nn.Module, object, Tensor], Tensor | None]:
        return lambda _module, _inputs, x: pass_on(number, x) if torch.is_grad_enabled() else None

    handles = []
    try:
        for number in numbers:
            assert isinstance(backbone, Backbone)
            handles.append(backbone.stage(number).register_forward_hook(hook(number)))
        yield
    finally:
        for handle in handles:
            handle.remove()
