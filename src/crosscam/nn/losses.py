"""Losses that more than one method uses, each a plain function or module.

All compute in float32 (float64 for float64 input), also inside autocast: squared distances of
half-precision features overflow.  None synchronizes with a GPU, all can be differentiated twice.

Shapes: B batch, D feature size, N training identities.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import InputError

__all__ = ["CenterLoss", "batch_hard_triplet", "cross_entropy", "pairwise_distances"]

MIN_SQUARED = 1e-12
"""Floor on a squared distance before its root: the root has no derivative at 0."""


def pairwise_distances(a: Tensor, b: Tensor | None = None, *, squared: bool = False) -> Tensor:
    """Euclidean distances between the rows of ``a`` [M, D] and ``b`` [N, D] (default ``a``).

    Returns [M, N]: sqrt(max(|a_i - b_j|^2, 1e-12)), or max(|a_i - b_j|^2, 1e-12) if ``squared``.
    A pair at the floor gets no gradient.  Rows are moved to the mean of ``b`` first, which no
    distance notices and which keeps the digits that |a|^2 + |b|^2 - 2ab would cancel.
    Memory: one [M, N] matrix, never [M, N, D].
    """
    b = a if b is None else b
    for name, rows in (("a", a), ("b", b)):
        if rows.ndim != 2:
            raise InputError(
                f"pairwise_distances needs {name} as [rows, D], got {list(rows.shape)}."
            )
    if a.shape[1] != b.shape[1]:
        raise InputError(f"rows of a and b must be of one length, got {a.shape[1]}, {b.shape[1]}.")
    with torch.autocast(a.device.type, enabled=False):
        a, b = _float(a), _float(b)
        # The distances do not depend on the shift, so neither does any gradient.
        shift = b.detach().mean(0)
        a, b = a - shift, b - shift
        d2 = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.T)  # [M, N]
        d2 = d2.clamp(min=MIN_SQUARED)
        return d2 if squared else d2.sqrt()


def batch_hard_triplet(
    features: Tensor,
    pids: Tensor,
    margin: float | Literal["soft"] = 0.3,
    *,
    squared: bool = False,
    normalize: bool = False,
    average: Literal["all", "active"] = "all",
) -> Tensor:
    """Triplet loss of every anchor with its farthest positive and nearest negative.

    Hermans, Beyer, Leibe: "In Defense of the Triplet Loss", 2017, eq. 5.  With d_ap(i) the largest
    distance to a row of the same identity (row i itself included, which is harmless) and d_an(i)
    the smallest to a row of another:

        hinge  max(0, d_ap - d_an + margin)          soft  log(1 + exp(d_ap - d_an))

    Conventions: margin 0.3 on plain Euclidean distances of features as they are (Luo et al.);
    1.2 in MGN; MPN takes unit features, squared distances, margin 0.4 and ``average="active"``.
    An anchor without any negative has no triplet and is left out; if none has one, the loss is 0
    (with a graph, so that backward works).

    Args:
        features: [B, D].
        pids: [B] integer labels.
        margin: hinge margin, in units of the distance used, or "soft".
        squared: compare squared distances.
        normalize: scale the rows to unit length first.
        average: mean over all anchors that have a triplet, or only over those whose hinge is
            above zero ("active").  For the soft margin every triplet is active.

    Returns:
        Scalar, float32.
    """
    if features.ndim != 2 or pids.shape != features.shape[:1]:
        raise InputError(
            "batch_hard_triplet needs features [B, D] and pids [B], got "
            f"{list(features.shape)} and {list(pids.shape)}."
        )
    if average not in ("all", "active"):
        raise InputError(f"average must be 'all' or 'active', got {average!r}.")
    if isinstance(margin, str) and margin != "soft":
        raise InputError(f"margin must be a number or 'soft', got {margin!r}.")
    with torch.autocast(features.device.type, enabled=False):
        features = _float(features)
        if normalize:
            features = F.normalize(features, dim=1)
        d = pairwise_distances(features, squared=squared)  # [B, B]
        same = pids[:, None] == pids[None, :]  # [B, B]
        farthest_positive = d.masked_fill(~same, -torch.inf).amax(1)  # [B]
        counted = ~same.all(1)  # [B] anchors that have a negative
        nearest_negative = d.masked_fill(same, torch.inf).amin(1)  # [B]
        gap = farthest_positive - torch.where(counted, nearest_negative, 0.0)
        terms = F.softplus(gap) if isinstance(margin, str) else F.relu(gap + margin)
        if average == "active":
            counted = counted & (terms > 0)
        # A mask and a quotient, not terms[counted]: shapes stay static under torch.compile.
        return torch.where(counted, terms, 0.0).sum() / counted.sum().clamp(min=1)


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    smoothing: float = 0.0,
    *,
    form: Literal["uniform", "others"] = "uniform",
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of [B, N] logits against softened labels, mean over the batch.

    With e = ``smoothing``, the target distribution is
        "uniform": (1 - e) onehot + e / N  (Szegedy et al., CVPR 2016; Luo et al.; the default)
        "others":  1 - e for the true class, e / (N - 1) for each other one.

    Args:
        logits: [B, N].
        targets: [B] int64 in 0..N-1.
        smoothing: e in [0, 1).
        form: which of the two.
        weights: [B] factors on the rows' terms; the mean stays over all B rows.

    Returns:
        Scalar, float32.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise InputError(
            "cross_entropy needs logits [B, N] and targets [B], got "
            f"{list(logits.shape)} and {list(targets.shape)}."
        )
    if not 0.0 <= smoothing < 1.0:
        raise InputError(f"smoothing must be in [0, 1), got {smoothing}.")
    if form not in ("uniform", "others"):
        raise InputError(f"form must be 'uniform' or 'others', got {form!r}.")
    if weights is not None and weights.shape != targets.shape:
        raise InputError(
            f"weights must be [B] to match logits {list(logits.shape)}, got {list(weights.shape)}."
        )
    n = logits.shape[1]
    _require_classes(targets, n)
    with torch.autocast(logits.device.type, enabled=False):
        log_p = F.log_softmax(_float(logits), dim=1)
        if weights is not None:
            log_p = log_p * weights[:, None]
        true = -log_p.gather(1, targets[:, None]).squeeze(1)  # [B]
        if smoothing == 0.0 or (form == "others" and n == 1):
            return true.mean()
        every = -log_p.sum(1)  # [B]
        if form == "uniform":
            return ((1 - smoothing) * true + smoothing / n * every).mean()
        return ((1 - smoothing) * true + smoothing / (n - 1) * (every - true)).mean()


class CenterLoss(nn.Module):
    """Mean squared Euclidean distance of each feature to the learned center of its identity.

    Wen et al., ECCV 2016, in the form of Luo et al. (CVPRW 2019): centers [N, D] start from
    N(0, 1), and no factor 1/2.  The paper weights the loss 0.0005 and moves the centers by their
    own SGD with rate 0.5 on the *unweighted* gradient.

    The centers are moved by this loss and nothing else: whatever is learned from its gradient
    with respect to the features (``nn.msgr``) takes the centers as they are.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        if num_classes < 1 or dim < 1:
            raise InputError(f"CenterLoss needs num_classes, dim >= 1, got {num_classes}, {dim}.")
        self.centers = nn.Parameter(torch.randn(num_classes, dim))

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        """Scalar loss of features [B, D] with labels [B] int64 in 0..N-1."""
        n, dim = self.centers.shape
        if features.ndim != 2 or features.shape[1] != dim or pids.shape != features.shape[:1]:
            raise InputError(
                f"CenterLoss needs features [B, {dim}] and pids [B], got "
                f"{list(features.shape)} and {list(pids.shape)}."
            )
        _require_classes(pids, n)
        with torch.autocast(features.device.type, enabled=False):
            f, own = _float(features), _float(self.centers)[pids]  # [B, D] both
            loss = (f - own.detach()).square().sum(1).mean()
            # The same once more for the centers' gradient, which adds nothing to the value.
            pull = (f.detach() - own).square().sum(1).mean()
            return loss + (pull - pull.detach())

    def extra_repr(self) -> str:
        return f"num_classes={self.centers.shape[0]}, dim={self.centers.shape[1]}"


def _float(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _require_classes(targets: Tensor, n: int) -> None:
    # Reading a value would stall a GPU and cut a traced graph; there the kernel's own check acts.
    if targets.device.type != "cpu" or torch.compiler.is_compiling() or targets.numel() == 0:
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= n:
        raise InputError(
            f"labels must be in 0..{n - 1}, got {low}..{high}: relabel the training identities "
            "0..N-1 and build the method with num_classes=N."
        )
