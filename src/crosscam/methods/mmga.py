"""MMGA: attention that body masks guide while training.

Cai, Wang, Cheng: "Multi-Scale Body-Part Mask Guided Attention for Person Re-identification",
CVPR Workshops 2019, arXiv 1904.11041.

**This is a reconstruction.**  The paper says that whole-body attention and part-body (upper,
bottom) attention are learned together at several scales, that body-part masks guide the training
of the matching maps, and that no mask is needed at test.  It released no code.  Everything else
here is assumed (assumed): the network is built from what the first author's public
attention-on-MGN code of the same months has, and that code knows no masks.

    u -> layer2 -> v        scale 1: v * C(u) * (1 + S(u)),        S guided by the whole body
    w = first block of layer3
    p_b = rest_b(w)         scale 2: p_b * C_b(w) * (1 + S_b(w)),  S_b guided by mask b
                            b = whole, upper, lower

C is a gate over channels, S a map over cells (``nn.attention``); ``rest_b`` are three copies of
what is left of layer3 and of layer4 (stride 1), which start from the same weights.  The maximum
over each p_b, and over 2 stripes of the upper and 3 of the lower branch (MGN's), goes through one
reduction to 256 channels.  With the 8 reduced features f (3 without stripes)

    L = 2 mean_f CE(W_f f, y) + mean_b Triplet_batch-hard(f_b, y; margin 1.2) + lambda L_mask
    L_mask = mean over the maps of mean over cells (S - mask)^2

where masks are averaged over the area of a cell.  A picture whose masks are all zero has no
usable mask and no part in L_mask; if no picture of a batch has one, L_mask is 0.  The attention
is computed from the picture, in training as at test.

Assumed are also lambda = 1, the margin (MGN's) and its place, the binary cross-entropy as the
alternative to the squared error, and that random erasing leaves masks as they are; the weight 2 is
that repository's.  Ours alone: every map can be left out (``attention``), and small networks keep
at least 8 hidden channels where the formula leaves fewer.  At test (``test.flip``) the unit vectors
of a picture and of its mirror image are added and scaled to length one, where that repository adds
both as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import InputError, RecipeError
from crosscam.methods import BackboneSettings, Method, require_margin, unit
from crosscam.nn import layers, losses
from crosscam.nn.attention import ChannelGate, SpatialMap, attend
from crosscam.nn.osnet import OSNet
from crosscam.nn.resnet import ResNet
from crosscam.nn.stages import Backbone
from crosscam.types import Batch, Prior

Map = Literal["scale1", "whole", "upper", "lower"]

MAPS: tuple[Map, ...] = ("scale1", "whole", "upper", "lower")
BRANCHES: tuple[str, ...] = MAPS[1:]
STRIPES = {"whole": 0, "upper": 2, "lower": 3}


class MMGA(Method):
    """Multi-scale body-part mask guided attention, as reconstructed.

    Args:
        num_classes: training identities N.
        backbone: a ResNet or OSNet and its options.
        attention: which maps there are: scale1 (the whole body, on layer2), and those of the
            three branches; [] is the network without attention.
        masks: lambda, the weight of the mask guidance; 0 learns the attention without masks.
        guidance: what draws a map to its mask, squared error or binary cross-entropy.
        stripes: also describe 2 and 3 stripes of the second and third branch, as MGN does.
        features: channels of one reduced feature.
        shared_reduction: one reduction for all features, or one for each.
        identity: weight of the identity loss.
        triplet: weight of the triplet; 0 turns it off.
        margin: margin of the batch-hard triplet on Euclidean distances, or soft.
        normalize: the triplet compares features of length one (ours).  Plain distances, from random
            weights at high rates, pull all features together, and no layer behind undoes that.
        regularizer: keywords of ``Method``; its stages are 0 to 2 here, where one map is one map.
    """

    paper: ClassVar[str] = (
        "Cai, Wang, Cheng, Multi-Scale Body-Part Mask Guided Attention for Person "
        "Re-identification, CVPRW 2019, arXiv 1904.11041 (reconstructed)"
    )
    needs = frozenset({Prior.MASKS})
    parts = BRANCHES
    recipe: ClassVar[Mapping[str, Any]] = {
        "preprocess.size": [384, 128],
        "preprocess.interpolation": "bicubic",
        "test.flip": True,
        "test.metric": "euclidean",
        "augment.flip": 0.5,
        "augment.pad": 0,
        "augment.erase": 0.5,
        "augment.erase_fill": [0.0, 0.0, 0.0],
        "sampler.kind": "identity-once",
        "sampler.people": 4,
        "sampler.images": 4,
        "optimizer.name": "amsgrad",
        "optimizer.lr": 2e-4,
        "optimizer.weight_decay": 5e-4,
        "schedule.epochs": 400,
        "schedule.milestones": [320, 380],
        "schedule.warmup": "none",
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: BackboneSettings = BackboneSettings("resnet50", last_stride=1),  # noqa: B008
        attention: tuple[Map, ...] = MAPS,
        masks: float = 1.0,
        guidance: Literal["mse", "bce"] = "mse",
        stripes: bool = True,
        features: int = 256,
        shared_reduction: bool = True,
        identity: float = 2.0,
        triplet: float = 1.0,
        margin: float | Literal["soft"] = 1.2,
        normalize: bool = False,
        **regularizer: Any,
    ) -> None:
        super().__init__(**regularizer)
        require_margin(margin=margin)
        if set(attention) - set(MAPS) or len(set(attention)) < len(attention):
            raise RecipeError(
                f"method.attention must name each of {', '.join(MAPS)} once at most, got "
                f"{', '.join(attention)}."
            )
        if min(masks, identity, triplet) < 0 or features < 1:
            raise RecipeError(
                "method.masks, method.identity and method.triplet must be 0 or more and "
                f"method.features 1 or more, got {masks}, {identity}, {triplet} and {features}."
            )
        self.backbone = backbone.build()
        first, rest = _divided(self.backbone)
        # The whole branch goes through the backbone's own layers.  The copies hang on the backbone
        # too, so that what a recipe says of the backbone's rate holds for them.
        copies = {name: copy.deepcopy(rest) for name in BRANCHES[1:]}
        self.backbone.add_module("copies", nn.ModuleDict(copies))
        # In a tuple and a dict, which register nothing, so that no weight has two names.
        self._first = (first,)
        self._rest = {"whole": rest, **copies}

        c1, c2, c3, c4 = self.backbone.channels
        self.attention = tuple(attention)
        inputs = {"scale1": c1} | dict.fromkeys(BRANCHES, c3)
        outputs = {"scale1": c2} | dict.fromkeys(BRANCHES, c4)
        self.gates = nn.ModuleDict({a: ChannelGate(inputs[a], outputs[a]) for a in attention})
        self.cells = nn.ModuleDict({a: SpatialMap(inputs[a]) for a in attention})

        self.heads = [(name, 0, 1) for name in BRANCHES]  # branch, stripe, of how many
        if stripes:
            self.heads += [(name, i, n) for name, n in STRIPES.items() for i in range(n)]
        count = len(self.heads)
        self.reductions = nn.ModuleList(
            nn.Sequential(
                layers.init_kaiming(nn.Linear(c4, features, bias=False), "fan_in"),
                layers.init_norm(nn.BatchNorm1d(features), 0.02),
                nn.ReLU(),
            )
            for _ in range(1 if shared_reduction else count)
        )
        self.classifiers = nn.ModuleList(
            layers.init_kaiming(nn.Linear(features, num_classes), "fan_out") for _ in range(count)
        )
        self.dim = count * features
        self.slices = {
            name: slice(i * features, (i + 1) * features)
            for i, name in enumerate(BRANCHES)
            if name != "whole"
        }
        self.masks, self.guidance = masks, guidance
        self.identity, self.triplet, self.margin = identity, triplet, margin
        self.normalize = normalize
        guided = {"whole" if a == "scale1" else a for a in attention} if masks else set()
        self.guides = self.parts = tuple(name for name in BRANCHES if name in guided)
        if not guided:
            self.needs = frozenset()

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [B, dim] of pictures [B, 3, H, W]: all reduced features side by side."""
        maps, _ = self._branches(images)
        return unit(torch.cat(self._reduced(maps), 1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Identity loss on all features, triplet on the three whole ones, guidance by masks."""
        maps, logits = self._branches(batch.images)
        reduced = self._reduced(maps)
        each = [
            losses.cross_entropy(classifier(f), batch.pids)
            for classifier, f in zip(self.classifiers, reduced, strict=True)
        ]
        terms = {"id": self.identity * torch.stack(each).mean()}
        if self.triplet:
            hardest = [
                losses.batch_hard_triplet(f, batch.pids, self.margin, normalize=self.normalize)
                for f in reduced[: len(BRANCHES)]
            ]
            terms["triplet"] = self.triplet * torch.stack(hardest).mean()
        if self.guides:
            masks = batch.require(Prior.MASKS)
            if masks.ndim != 4 or masks.shape[1] != len(self.guides):
                raise InputError(
                    f"masks must be [B, {len(self.guides)}, H, W], of {', '.join(self.guides)}; "
                    f"got {list(masks.shape)}."
                )
            distances = [
                mask_distance(
                    found,
                    masks[:, self.guides.index("whole" if name == "scale1" else name)],
                    usable(masks),
                    self.guidance,
                )
                for name, found in logits.items()
            ]
            terms["masks"] = self.masks * torch.stack(distances).mean()
        return terms

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """u, the attended v, w, and the attended maps of the three branches.

        The third and fourth stage of the backbone as such are never run.
        """
        found: dict[str, Tensor] = {}
        branches, _ = self._branches(images, found)
        return found | {f"{name} branch": x for name, x in branches.items()}

    @torch.no_grad()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The attention maps S [B, h, w] in (0, 1) of pictures [B, 3, H, W], by name."""
        return {name: torch.sigmoid(x.float()) for name, x in self._branches(images)[1].items()}

    def _branches(
        self, images: Tensor, trunk: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Attended maps p_b of the branches, and the logits [B, h, w] of all attention maps.

        ``trunk`` is filled with the maps that the branches share.
        """
        net = self.backbone
        logits: dict[str, Tensor] = {}

        def attended(name: str, later: Tensor, earlier: Tensor) -> Tensor:
            if name not in self.attention:
                return later
            size = (int(later.shape[2]), int(later.shape[3]))
            logits[name] = self.cells[name](earlier, size)
            return attend(later, self.gates[name](earlier), logits[name])

        u = net.stage1(net.stem(images))
        v = attended("scale1", net.stage2(u), u)
        w = self._first[0](v)
        if trunk is not None:
            trunk |= {"stage 1": u, "stage 2": v, "stage 3, first block": w}
        maps = {name: attended(name, self._rest[name](w), w) for name in BRANCHES}
        return maps, logits

    def _reduced(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """One feature [B, features] for every head, the three whole branches first."""
        last = len(self.reductions) - 1
        return [
            self.reductions[min(number, last)](stripe_max(maps[name], i, n))
            for number, (name, i, n) in enumerate(self.heads)
        ]


def stripe_max(maps: Tensor, number: int, count: int) -> Tensor:
    """Maximum over horizontal stripe ``number`` of ``count``: [B, C, h, w] -> [B, C].

    Stripe i has the rows from floor(i h / count) to ceil((i + 1) h / count), so that every row is
    in a stripe and none is empty; they share a row where ``count`` does not divide h.
    """
    height = int(maps.shape[2])
    start, stop = number * height // count, -(-(number + 1) * height // count)
    return layers.global_max_pool(maps[:, :, start:stop])


def usable(masks: Tensor) -> Tensor:
    """[B] float32: 1 where a row of masks [B, K, H, W] says anything, 0 where all of it is 0."""
    return (masks.amax((1, 2, 3)) > 0).float()


def mask_distance(
    logits: Tensor, masks: Tensor, counted: Tensor, form: Literal["mse", "bce"]
) -> Tensor:
    """How far attention maps are from masks: mean over the cells of all rows that count.

    Args:
        logits: [B, h, w]; their sigmoid is the map.
        masks: [B, H, W] in [0, 1], averaged over the area of each cell.
        counted: [B], 1 for rows that have a mask, 0 for others.
        form: squared error, or binary cross-entropy.

    Returns:
        Scalar, float32; 0 if no row counts.
    """
    size = (int(logits.shape[1]), int(logits.shape[2]))
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        targets = F.adaptive_avg_pool2d(masks.float()[:, None], size)[:, 0]
        if form == "mse":
            far = (torch.sigmoid(logits) - targets).square()
        else:
            far = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (far.mean((1, 2)) * counted).sum() / counted.sum().clamp(min=1)


def _divided(backbone: Backbone) -> tuple[nn.Sequential, nn.Sequential]:
    """First block of the third stage (with what halves the map), and all that follows it."""
    if not isinstance(backbone, ResNet | OSNet):
        raise RecipeError(
            "mmga divides its network behind the first block of the third stage, which is known "
            f"for ResNets and OSNets and not for {type(backbone).__name__}. Choose "
            "method.backbone.name=resnet50 or another of those."
        )
    # The layer by which an OSNet halves its map belongs to the stage it leads to.
    count = 1 if isinstance(backbone, ResNet) else 2
    blocks = list(backbone.stage3.children())
    return nn.Sequential(*blocks[:count]), nn.Sequential(*blocks[count:], backbone.stage4)
