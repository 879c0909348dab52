"""MPN: part features that need no part detection, because they learned beside tasks that had it.

Ding, Wang, Wang, Tao: "Multi-task Learning with Coarse Priors for Robust Part-aware Person
Re-identification", TPAMI 2020, arXiv 2003.08069.

On the last map F of one backbone stand, for each of K body parts, a main task (MT) that sees the
whole map and an auxiliary task (AT) that sees only the region of its part:

    s_k = E2_k(GMP(E1_k(F)))              t_k = E2_k(GMP over region k (E1_k(F)))

E1_k is a 1x1 convolution to 512 channels, batch normalization and ReLU, E2_k the same on the
pooled vector.  The tasks of a part share both (alignment in parameter space); their classifiers
are their own.  With S and T the 3072-d concatenations of s_k and t_k,

    L = sum_k CE(W_k s_k, y) + sum_k CE(V_k t_k, y) + L_align(S, T) + L_tri(S)
    L_align = mean over identities of 1 - cos(c_S, c_T), c the identity's mean in the batch
    L_tri   = batch-hard on unit S: squared distances, margin 0.4, mean over active anchors

(alignment in feature space, class-wise).  Only S is deployed: no priors, no regions, no ATs.

``prior="uniform"`` is the official simplified release, with every number of it: region k is the
k-th of K stripes.  The running statistics of shared layers mix both tasks, as there.  The full
version has coarse priors, which the release does not contain.  What follows is assumed (assumed):

    extent   F_AT = F * m for a foreground mask m, cut into K equal stripes between top and
             bottom of the body; E1_k is normalized over all of F_AT, as pooling comes after it.
             If an end of the body is cut off, top or bottom moves outside the picture by
             proportion, and a part that is not in the picture has no AT.  Without a mask the
             stripes are those of the picture.
    parsing  region k is a semantic part: GMP of E1_k(F) weighted by its mask.

Assumed are also that random erasing leaves masks as they are, where channel attention sits (before
E1_k, one for both tasks) and its use of the maximum over the region for the AT.  A part that a
picture lacks takes no part in any loss of the ATs: not in cross-entropy (whose mean stays over the
batch), nor in the class means, of either side.  In the batch statistics of E2_k the main task's
vector stands in for it.

At test (``test.flip``) the unit vectors of a picture and of its mirror image are added and scaled
to length one.  The release adds both S as they are, so the longer one counts more there; here the
picture is mirrored outside of the method, for all of them alike, and ``embed`` gives unit vectors.

Ours: K that does not divide the map's rows gets stripes of ceil(rows / K) rows that overlap;
halves of rows round up; ``sharing``, ``statistics``, ``align_by`` and weights turn the axes of
the ablation; ``neck="msfl"`` puts the tasks on the pyramid of ``methods.msfl``, whose levels are
brought to the cells of the last map by their maxima and stacked; K layers are computed as one,
and E1_k, being pointwise, is computed once for both tasks where they see the same map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import RecipeError
from crosscam.methods import BackboneSettings, Method, unit
from crosscam.nn import losses
from crosscam.nn.pyramid import CSIP, MSFF
from crosscam.types import Batch, Prior
from crosscam.wording import counted

NECK, HIP, ANKLE = 0.13, 0.47, 0.96
"""Where neck, hip and ankle of a standing body are, from top to sole (segment lengths of
Drillis and Contini, 1966)."""

SEEN = 0.25
"""Share of the best covered cell of a region from which on the part is in the picture (assumed)."""

EXTENT = ("whole", "head", "upper clothes", "lower", "shoes")
"""Masks that say where a body begins and ends, and whether it is cut."""


class MPN(Method):
    """Multi-task part-aware network.

    Args:
        num_classes: training identities N.
        backbone: network and its options; the release starts from an IDE snapshot (recipe ide).
        prior: where ATs look: uniform stripes, stripes of the body's extent, or parsed parts.
        num_parts: K.
        regions: masks of the K parts for prior parsing.
        fallback: for prior extent, stripes of the picture where there is no mask (off: no ATs).
        width: channels of one part feature.
        sharing: MT and AT of a part share their layers (off: each has its own).
        statistics: running statistics of shared normalization, of both tasks (mixed) or of each
            task alone (split); the deployed MT reads them.
        attention: channel attention of each part before E1.
        neck: what the tasks stand on, the last map of the backbone (none) or MSFL's pyramid.
        neck_width: channels of each of the four levels of that pyramid.
        auxiliary: weight of the ATs' identity loss; 0 leaves the ATs out, and alignment with them.
        align: weight of the alignment of MTs and ATs; 0 turns it off.
        align_by: align the means of each class, or each sample (picture).
        triplet: weight of the triplet; 0 turns it off.
        margin: of the triplet, on squared distances of unit vectors, which are at most 4.
        regularizer: keywords of ``Method``.
    """

    paper: ClassVar[str] = (
        "Ding, Wang, Wang, Tao, Multi-task Learning with Coarse Priors for Robust Part-aware "
        "Person Re-identification, TPAMI 2020, arXiv 2003.08069"
    )
    recipe: ClassVar[Mapping[str, Any]] = {
        "preprocess.size": [384, 128],
        "preprocess.interpolation": "bilinear",
        "test.interpolation": "bicubic",
        "test.flip": True,
        "augment.flip": 0.5,
        "augment.pad": 0,
        "augment.erase": 0.5,
        "augment.erase_fill": [0.4914, 0.4822, 0.4465],
        "sampler.kind": "balanced",
        "sampler.people": 6,
        "sampler.images": 8,
        "optimizer.name": "sgd",
        "optimizer.lr": 0.01,
        "optimizer.weight_decay": 5e-4,
        "optimizer.momentum": 0.9,
        "optimizer.nesterov": True,
        "schedule.epochs": 70,
        "schedule.warmup": "none",
        "schedule.milestones": [20, 40, 60],
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: BackboneSettings = BackboneSettings("resnet50", last_stride=1),  # noqa: B008
        prior: Literal["uniform", "extent", "parsing"] = "uniform",
        num_parts: int = 6,
        regions: tuple[str, ...] = (
            "head",
            "upper clothes",
            "arms",
            "lower clothes",
            "legs",
            "shoes",
        ),
        fallback: bool = True,
        width: int = 512,
        sharing: bool = True,
        statistics: Literal["mixed", "split"] = "mixed",
        attention: bool = False,
        neck: Literal["none", "msfl"] = "none",
        neck_width: int = 512,
        auxiliary: float = 1.0,
        align: float = 1.0,
        align_by: Literal["class", "sample"] = "class",
        triplet: float = 1.0,
        margin: float = 0.4,
        **regularizer: Any,
    ) -> None:
        super().__init__(**regularizer)
        if not 0 <= margin <= 4:
            raise RecipeError(
                "method.margin must be 0 to 4, as squared distances of unit vectors are; got "
                f"{margin}."
            )
        if min(num_parts, width, neck_width) < 1:
            raise RecipeError(
                "method.num_parts, method.width and method.neck_width must be 1 or more, got "
                f"{num_parts}, {width} and {neck_width}."
            )
        if prior == "parsing" and len(regions) != num_parts:
            raise RecipeError(
                f"method.regions names {counted(len(regions), 'part')} and method.num_parts is "
                f"{num_parts}: name as many masks as there are parts."
            )
        if prior == "parsing" and len(set(regions)) < len(regions):
            raise RecipeError(f"method.regions must name each mask once, got {', '.join(regions)}.")
        if min(auxiliary, align, triplet) < 0:
            raise RecipeError(
                "method.auxiliary, method.align and method.triplet are weights, 0 or more; got "
                f"{auxiliary}, {align} and {triplet}."
            )
        self.backbone = backbone.build()
        self.neck = Pyramid(self.backbone.channels, neck_width) if neck == "msfl" else None
        channels = self.backbone.channels[-1] if self.neck is None else self.neck.channels
        split = bool(auxiliary) and sharing and statistics == "split"
        self.main = Embedding(channels, num_parts, width, attention, split)
        self.main_classifiers = PartLinear(num_parts, width, num_classes, std=0.001)
        if auxiliary:
            if not sharing:
                self.auxiliary = Embedding(channels, num_parts, width, attention, split=False)
            self.auxiliary_classifiers = PartLinear(num_parts, width, num_classes, std=0.001)
            masks = {"uniform": (), "extent": EXTENT, "parsing": tuple(regions)}
            self.parts = masks[prior]
            self.needs = frozenset({Prior.MASKS}) if self.parts else frozenset()
        self.prior, self.num_parts, self.fallback, self.sharing = (
            prior,
            num_parts,
            fallback,
            sharing,
        )
        self.weights = {"at": auxiliary, "align": align if auxiliary else 0.0, "triplet": triplet}
        self.align_by, self.margin = align_by, margin
        self.dim = num_parts * width
        names = regions if prior == "parsing" else [f"part {k + 1}" for k in range(num_parts)]
        self.slices = {n: slice(k * width, (k + 1) * width) for k, n in enumerate(names)}

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [B, K * width] of pictures [B, 3, H, W]: S, which the main tasks give."""
        s, _ = self._main(self.main.reduce(self._map(images)))
        return unit(s.flatten(1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Identity losses of MTs (id) and ATs (at), their alignment, and the triplet on S."""
        maps, pids = self._map(batch.images), batch.pids  # F: [B, C, h, w]
        reduced = self.main.reduce(maps)
        s, pooled = self._main(reduced)
        terms = {"id": part_identity(self.main_classifiers(s), pids)}
        if self.weights["at"]:
            t, present = self._auxiliary(maps, reduced, pooled, batch)
            identity = part_identity(self.auxiliary_classifiers(t), pids, present)
            terms["at"] = self.weights["at"] * identity
            if self.weights["align"]:
                classes = (
                    pids
                    if self.align_by == "class"
                    else torch.arange(len(pids), device=pids.device)
                )
                terms["align"] = self.weights["align"] * alignment(s, t, present, classes)
        if self.weights["triplet"]:
            hardest = losses.batch_hard_triplet(
                s.flatten(1), pids, self.margin, squared=True, normalize=True, average="active"
            )
            terms["triplet"] = self.weights["triplet"] * hardest
        return terms

    @torch.no_grad()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """What each main task took from where, [B, h, w] of pictures [B, 3, H, W], by part.

        A cell has the sum of the channels of E1_k whose maximum lies in it.
        """
        x = self.main.activate(self.main.reduce(self._map(images)), auxiliary=False).float()
        values, cells = x.flatten(3).max(3)  # [B, K, width]
        found = torch.zeros_like(x[:, :, 0]).flatten(2).scatter_add_(2, cells, values)
        maps = found.view(*x.shape[:2], *x.shape[3:]).unbind(1)
        return dict(zip(self.slices, maps, strict=True))

    def _map(self, images: Tensor) -> Tensor:
        """F [B, C, h, w] of pictures [B, 3, H, W]."""
        stages = self.backbone.stages(images)
        found: Tensor = stages[-1] if self.neck is None else self.neck(stages)
        return found

    def _main(self, reduced: Tensor) -> tuple[Tensor, Tensor]:
        """s and its pooled vectors, both [B, K, width], from what E1 reduced the map to."""
        pooled = self.main.activate(reduced, auxiliary=False).amax((3, 4))
        return self.main.refine(pooled, auxiliary=False), pooled

    def _auxiliary(
        self, maps: Tensor, reduced: Tensor, pooled: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """t [B, K, width] of the ATs, and [B, K] 1 where the part is in the picture, else 0."""
        embedding = self.main if self.sharing else self.auxiliary
        height, width = maps.shape[2:]
        seen = maps
        if self.prior == "uniform":
            where = _indicator(*stripe_rows(height, self.num_parts, maps.device), height)
            where = where[None, :, :, None]  # [1, K, h, 1]
            present = maps.new_ones(len(maps), self.num_parts, dtype=torch.float32)
        else:
            masks = batch.require(Prior.MASKS)
            cells = F.adaptive_avg_pool2d(masks, (height, width))  # the area that a cell covers
            where, present = cells, (cells.amax((2, 3)) >= SEEN).float()  # [B, K, h, w], [B, K]
            if self.prior == "extent":
                foreground, where, present = self._extent(masks, cells[:, 0])
                seen = maps * foreground[:, None].to(maps.dtype)
        where = where.to(maps.dtype)
        if embedding is not self.main or embedding.attention is not None or seen is not maps:
            reduced = embedding.reduce(seen, where)
        if self.prior == "uniform":
            own = embedding.activate(stripes(reduced), auxiliary=True).amax((3, 4))
        else:
            own = (embedding.activate(reduced, auxiliary=True) * where[:, :, None]).amax((3, 4))
            own = torch.where(present[:, :, None] > 0, own, pooled.detach())
        return embedding.refine(own, auxiliary=True), present

    def _extent(self, masks: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m [B, h, w], stripes of the body [B, K, h, 1], and which of them are in the picture."""
        height = foreground.shape[1]
        top, bottom, known = body_extent(masks)
        if self.fallback:
            foreground = torch.where(known[:, None, None], foreground, 1.0)
        rows = _indicator(*extent_rows(top, bottom, self.num_parts, height), height)  # [B, K, h]
        present = (rows[..., None] * foreground[:, None]).amax((2, 3)) >= SEEN
        if not self.fallback:
            present = present & known[:, None]
        return foreground, rows[..., None], present.float()


# --- the layers of the K parts, side by side ---------------------------------------------------


class PartLinear(nn.Module):
    """A 1x1 convolution of each of K parts on its pooled vector: [B, K, inputs] -> [B, K, outputs].

    One batched product: K grouped convolutions take three times as long on a CPU.  ``std`` draws
    weights from N(0, std) and zeroes biases; None starts like PyTorch's convolutions.
    """

    def __init__(self, parts: int, inputs: int, outputs: int, std: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(parts, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(parts * outputs))
        if std is not None:
            nn.init.normal_(self.weight, std=std)
        else:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.view(len(self.weight), 1, -1)
        return torch.baddbmm(bias, x.transpose(0, 1), self.weight).transpose(0, 1)

    def extra_repr(self) -> str:
        parts, inputs, outputs = self.weight.shape
        return f"parts={parts}, inputs={inputs}, outputs={outputs}"


class TaskNorm(nn.Module):
    """Batch normalization that both tasks of a part share.

    Each task is normalized by the statistics of its own call.  The running ones mix both calls,
    or with ``split`` each task has its own; scale and shift are one.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, split: bool) -> None:
        super().__init__()
        self.main = norm
        self.auxiliary = type(norm)(norm.num_features, affine=False) if split else None

    def forward(self, x: Tensor, auxiliary: bool) -> Tensor:
        if not auxiliary or self.auxiliary is None:
            normal: Tensor = self.main(x)
            return normal
        shape = [1, -1] + [1] * (x.ndim - 2)
        shared: Tensor = self.auxiliary(x) * self.main.weight.view(shape)
        return shared + self.main.bias.view(shape)


class Embedding(nn.Module):
    """CA_k, E1_k and E2_k of all K parts.

    ``reduce`` is E1_k's convolution, [B, C, h, w] -> [B, K, D, h, w]; ``activate`` its
    normalization and ReLU on any cells of that; ``refine`` is E2_k, [B, K, D] -> [B, K, D].
    """

    def __init__(self, channels: int, parts: int, width: int, attention: bool, split: bool) -> None:
        super().__init__()
        self.parts = parts
        self.attention = ChannelAttention(channels, parts, split) if attention else None
        self.first = nn.Conv2d(channels, parts * width, 1)
        self.first_norm = TaskNorm(nn.BatchNorm2d(parts * width), split)
        self.second = PartLinear(parts, width, width)
        self.second_norm = TaskNorm(nn.BatchNorm1d(parts * width), split)

    def reduce(self, maps: Tensor, where: Tensor | None = None) -> Tensor:
        """``where`` [B or 1, K, h, w or 1] is the region an AT sees; None is an MT, which sees
        everything."""
        if self.attention is None:
            x: Tensor = self.first(maps)
        else:
            gated = self.attention(maps, where).flatten(1, 2)  # [B, K * C, h, w]
            x = F.conv2d(gated, self.first.weight, self.first.bias, groups=self.parts)
        return _by_part(x, self.parts)

    def activate(self, reduced: Tensor, auxiliary: bool) -> Tensor:
        x = F.relu(self.first_norm(reduced.flatten(1, 2), auxiliary))
        return _by_part(x, self.parts)

    def refine(self, pooled: Tensor, auxiliary: bool) -> Tensor:
        x = F.relu(self.second_norm(self.second(pooled).flatten(1), auxiliary))
        return _by_part(x, self.parts)


class Pyramid(nn.Module):
    """The pyramid of MSFL as one map: levels [B, width, h_l, w_l] to [B, 4 * width, h_4, w_4].

    With that paper's levels, kernel and blocks, and a quarter of ``width`` inside a block.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels = len(channels) * width
        self.csip = CSIP(channels, width)
        self.msff = MSFF(width, (3, 2, 1, 0), inner=max(width // 4, 1))

    def forward(self, stages: list[Tensor]) -> Tensor:
        size = stages[-1].shape[2:]
        levels = self.msff(self.csip(stages))
        return torch.cat([F.adaptive_max_pool2d(x, size) for x in levels], 1)


class ChannelAttention(nn.Module):
    """CA_k of all K parts: weights in (0, 1) for the channels of the map, from its maxima.

    Map [B, C, h, w] and regions (None: all of the map) to K weighted maps [B, K, C, h, w].
    GMP, 1x1 convolution to C / 4 (the paper's reduction of 4), BN, ReLU, 1x1 convolution, BN,
    sigmoid.
    """

    def __init__(self, channels: int, parts: int, split: bool) -> None:
        super().__init__()
        hidden = max(channels // 4, 1)
        self.parts = parts
        self.squeeze = PartLinear(parts, channels, hidden)
        self.squeeze_norm = TaskNorm(nn.BatchNorm1d(parts * hidden), split)
        self.excite = PartLinear(parts, hidden, channels)
        self.excite_norm = TaskNorm(nn.BatchNorm1d(parts * channels), split)

    def forward(self, maps: Tensor, where: Tensor | None) -> Tensor:
        auxiliary = where is not None
        if where is None:
            x = maps.amax((2, 3))[:, None].expand(-1, self.parts, -1)
        else:  # part by part, or [B, K, C, h, w] would lie in memory
            regions = where.unbind(1)
            x = torch.stack([(maps * r[:, None]).amax((2, 3)) for r in regions], 1)
        x = F.relu(self.squeeze_norm(self.squeeze(x).flatten(1), auxiliary))
        x = self.excite(_by_part(x, self.parts)).flatten(1)
        gate = _by_part(torch.sigmoid(self.excite_norm(x, auxiliary)), self.parts)
        return maps[:, None] * gate[..., None, None].to(maps.dtype)


def _by_part(x: Tensor, parts: int) -> Tensor:
    """[B, K * D, ...] -> [B, K, D, ...]."""
    return x.view(x.shape[0], parts, x.shape[1] // parts, *x.shape[2:])


# --- losses ------------------------------------------------------------------------------------


def part_identity(logits: Tensor, pids: Tensor, present: Tensor | None = None) -> Tensor:
    """Sum over K parts of the cross-entropy of [B, K, N] logits, mean over the batch.

    ``present`` [B, K] weights each picture's part; those at 0 add nothing.
    """
    parts = logits.shape[1]
    weights = None if present is None else present.flatten()
    targets = pids.repeat_interleave(parts)
    return parts * losses.cross_entropy(logits.flatten(0, 1), targets, weights=weights)


def alignment(s: Tensor, t: Tensor, present: Tensor, classes: Tensor) -> Tensor:
    """Mean over classes of 1 - cos(c_S, c_T), c the class's mean features, all K parts in a row.

    Parts at 0 in ``present`` are left out of the means of both; a class that has none is left out.

    Args:
        s: [B, K, D] of the main tasks.
        t: [B, K, D] of the auxiliary tasks.
        present: [B, K] 0 or 1.
        classes: [B] integers; each picture a class of its own aligns sample by sample.
    """
    with torch.autocast(s.device.type, enabled=False):
        wide = torch.promote_types(s.dtype, torch.float32)
        same = (classes[:, None] == classes[None, :]).to(wide)  # [B, B]
        present = present.to(wide)
        count = same @ present  # [B, K]
        c_s, c_t = (
            torch.einsum("ij,jkd->ikd", same, present[..., None] * x.to(wide)) for x in (s, t)
        )
        c_s, c_t = ((c / count.clamp(min=1)[..., None]).flatten(1) for c in (c_s, c_t))
        # A row for each picture, so that shapes are static; each class counts once.
        once = (count.sum(1) > 0) / same.sum(1)  # [B]
        return (once * (1 - F.cosine_similarity(c_s, c_t))).sum() / once.sum().clamp(min=1)


# --- regions -----------------------------------------------------------------------------------


def stripe_rows(height: int, parts: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First row and the one behind the last of K equal stripes, each [K].

    Rows floor(k h / K) to that + ceil(h / K): without overlap where K divides h.
    """
    start = torch.arange(parts, device=device) * height // parts
    return start, start - (-height // parts)


def stripes(maps: Tensor) -> Tensor:
    """Stripe k of part k: [B, K, D, h, w] -> [B, K, D, ceil(h / K), w]."""
    parts, height = maps.shape[1], maps.shape[3]
    rows = -(-height // parts)
    starts = [k * height // parts for k in range(parts)]
    return torch.stack([maps[:, k, :, a : a + rows] for k, a in enumerate(starts)], 1)


def body_extent(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Top and bottom of the whole body, and whether there is a mask: each [B].

    In heights of the picture; below 0 or above 1 where the body is cut off.  The visible extent
    is that of the mask ``whole``.  Where head or shoes do not show, that end moves out by
    proportion: two rows whose places on a standing body are known (an end that shows, and the
    hip, where legs begin below a trunk) give the height of the body; lacking the hip, the visible
    parts are taken to show to their ends.

    Args:
        masks: [B, 5, H, W] in [0, 1], in the order of ``EXTENT``.
    """
    height = masks.shape[2]
    rows = (masks.amax(3) >= 0.5).int()  # [B, 5, H]
    shown = rows.amax(2) > 0
    known, head, trunk, legs, feet = shown.unbind(1)
    first = rows.argmax(2) / height  # [B, 5]; 0 where nothing shows
    top, hip = first[:, 0], first[:, 3]
    bottom = torch.where(known, 1 - rows[:, 0].flip(1).argmax(1) / height, 1.0)
    waist = trunk & legs  # both sides of the hip show

    upper, upper_at = top, torch.where(trunk, NECK, HIP)
    upper, upper_at = _where(feet & waist, (hip, HIP), (upper, upper_at))
    upper, upper_at = _where(head, (top, 0.0), (upper, upper_at))
    lower, lower_at = bottom, torch.where(trunk, HIP, NECK)
    lower, lower_at = _where(legs, (bottom, ANKLE), (lower, lower_at))
    lower, lower_at = _where(head & waist, (hip, HIP), (lower, lower_at))
    lower, lower_at = _where(feet, (bottom, 1.0), (lower, lower_at))
    # Never less than what shows, whatever the pose; masks without parts say nothing of the ends.
    tall = torch.maximum((lower - upper) / (lower_at - upper_at), bottom - top)
    cut = known & (head | trunk | legs | feet)
    above = torch.minimum(top, upper - upper_at * tall)
    below = torch.maximum(bottom, lower + (1 - lower_at) * tall)
    top = torch.where(cut & ~head, above, top)
    bottom = torch.where(cut & ~feet, below, bottom)
    return top, bottom, known


def extent_rows(top: Tensor, bottom: Tensor, parts: int, height: int) -> tuple[Tensor, Tensor]:
    """First row and the one behind the last of K stripes of a body, each [B, K] int64.

    a_k = round(top + k (bottom - top) / K), b_k = max(a_k + 1, round(top + (k + 1) ...)) with
    halves up, in rows of a map of ``height``; a stripe that is not in the map is empty.

    Args:
        top: [B] top of the body in heights of the picture.
        bottom: [B] its bottom.
        parts: K.
        height: rows of the map.
    """
    share = torch.arange(parts + 1, device=top.device) / parts
    edges = height * (top[:, None] + (bottom - top)[:, None] * share)
    edges = (edges + 0.5).floor().long()  # [B, K + 1]
    stop = torch.maximum(edges[:, 1:], edges[:, :-1] + 1)
    return edges[:, :-1].clamp(0, height), stop.clamp(0, height)


def _indicator(start: Tensor, stop: Tensor, height: int) -> Tensor:
    """[..., height] 1 in rows start to stop - 1, else 0, of [...] each."""
    row = torch.arange(height, device=start.device)
    return ((row >= start[..., None]) & (row < stop[..., None])).float()


def _where(
    condition: Tensor, yes: tuple[Tensor, float], no: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    return torch.where(condition, yes[0], no[0]), torch.where(condition, yes[1], no[1])
