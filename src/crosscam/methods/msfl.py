"""MSFL: features of all scales, passed down a pyramid, refined and fused.

Wang: "Adversarial Multi-scale Feature Learning for Person Re-identification", 2020, arXiv
2012.14061.  With C_1 .. C_4 the maps of a ResNet-50's stages (last stride 2):

    P = CSIP(C)                        top-down path with lateral 1x1 convolutions to 512 channels
    M = MSFF(P)                        3, 2, 1 bottleneck blocks on the levels, shallow to deep
    v = embed([GAP(M_1) .. GAP(M_4)])  512-d
    L = CE(W v, y) + Triplet_batch-hard(v, y)

The paper's second part, the gradient regularizer MSGR, is for every method: ``msgr=0.01``.

Assumed, where the paper is silent or contradicts itself (most are keywords): four levels (its text
can also be read as the strides 8 to 32, ``levels=[2, 3, 4]``); an embedding of 512 ("as OSNet") of
pictures of 256x128, and ImageNet's mean and deviation, since its numbers are lost; the 1x1
convolution behind the upsampling; blocks that are 128 channels wide inside (``refine_width``); the
order Linear, BN, ReLU of the embedding (its text names BN, FC, ReLU); the losses, their margin 0.3
and weights 1 : 1, on v as it is, and none on the levels; the first weights, Kaiming's by fan-out in
the pyramid, N(0, 0.01) in the embedding, N(0, 0.001) in the classifiers; in ``recipe`` P x K =
16 x 4, the size 288x144 to which pictures are enlarged before the crop, the weight decay, the
Euclidean distance at test.  Ours: ``embed`` gives v at unit length, where the paper
perhaps compares v as it is.

``fusion`` and ``refine`` span its table I, as we read it: a) the baseline with ``embedding=512``;
b) ``direct`` with levels 3, 4; c) ``direct`` with all levels; d) ``top-down``; e) ``csip``, all
with ``refine=[]``; f) the defaults.  ``level_id`` is a loss of the author's earlier network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from crosscam.errors import RecipeError
from crosscam.methods import BackboneSettings, Method, require_margin, require_share, unit
from crosscam.nn import layers, losses
from crosscam.nn.pyramid import CSIP, MSFF
from crosscam.types import Batch


class MSFL(Method):
    """Multi-scale feature learning: CSIP pyramid, MSFF refinement, one embedding.

    Args:
        num_classes: training identities N.
        backbone: network and its options.
        levels: stages that are fused, shallow to deep; stages behind the last are not run.
        fusion: "csip" adds each stage to what comes down, "top-down" passes only the last one
            down, "direct" fuses the stages as they are.
        width: channels of the pyramid.
        aa_kernel: convolution behind the upsampling: 1x1, 3x3, or 0 for none.
        refine: bottleneck blocks per level, shallow to deep; levels left over get none.
        refine_width: channels inside such a block.
        embedding: length of the feature.
        head: order of the embedding's layers.
        smoothing: label smoothing epsilon, in [0, 1).
        margin: margin of the batch-hard triplet on Euclidean distances, or soft.
        normalize: the triplet compares features of length one (ours).  Plain distances, from random
            weights at high rates, pull all features together, and no layer behind undoes that.
        triplet: weight of the triplet; 0 turns it off.
        level_id: weight of an identity loss on every level's pooled map; 0 turns it off.
        regularizer: keywords of ``Method``.
    """

    paper: ClassVar[str] = (
        "Wang, Adversarial Multi-scale Feature Learning for Person Re-identification, 2020, "
        "arXiv 2012.14061"
    )
    recipe: ClassVar[Mapping[str, Any]] = {
        "preprocess.size": [256, 128],  # (assumed)
        "augment.flip": 0.5,
        "augment.pad": 0,
        "augment.resize_crop": 1.0,
        "augment.zoom": 1.125,  # (assumed) enlarged to 288x144, then cropped
        "augment.erase": 0.0,
        "sampler.kind": "leading",
        "sampler.people": 16,  # (assumed), as K
        "sampler.images": 4,
        "optimizer.name": "adam",
        "optimizer.lr": 3.5e-4,
        "optimizer.weight_decay": 5e-4,  # (assumed)
        "schedule.epochs": 120,
        "schedule.kind": "step",
        "schedule.milestones": [40, 70],
        "schedule.gamma": 0.1,
        "schedule.warmup": "none",
        "engine.sync_batchnorm": True,
        "test.metric": "euclidean",  # (assumed)
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: BackboneSettings = BackboneSettings("resnet50", last_stride=2),  # noqa: B008
        levels: tuple[int, ...] = (1, 2, 3, 4),
        fusion: Literal["csip", "top-down", "direct"] = "csip",
        width: int = 512,
        aa_kernel: Literal[0, 1, 3] = 1,
        refine: tuple[int, ...] = (3, 2, 1),
        refine_width: int = 128,
        embedding: int = 512,
        head: Literal["fc-bn-relu", "bn-fc-relu"] = "fc-bn-relu",
        smoothing: float = 0.0,
        margin: float | Literal["soft"] = 0.3,
        normalize: bool = False,
        triplet: float = 1.0,
        level_id: float = 0.0,
        **regularizer: Any,
    ) -> None:
        super().__init__(**regularizer)
        require_share(smoothing=smoothing)
        require_margin(margin=margin)
        if not levels or set(levels) - {1, 2, 3, 4} or sorted(set(levels)) != list(levels):
            raise RecipeError(
                f"method.levels must name stages 1 to 4 in rising order, got {list(levels)}."
            )
        if min(width, refine_width, embedding) < 1 or min(triplet, level_id) < 0:
            raise RecipeError(
                "method.width, method.refine_width and method.embedding must be 1 or more, "
                "method.triplet and method.level_id 0 or more; got "
                f"{width}, {refine_width}, {embedding}, {triplet} and {level_id}."
            )
        if any(n < 0 for n in refine) or (refine and fusion == "direct"):
            raise RecipeError(
                "method.refine must be numbers of 0 or more, and empty with fusion=direct, "
                f"where the levels differ in width; got {list(refine)}."
            )
        if len(refine) > len(levels) and tuple(refine) != (3, 2, 1):
            raise RecipeError(
                f"method.refine={list(refine)} has more numbers than method.levels={list(levels)} "
                "has levels: give one for each, shallow to deep."
            )
        self.levels = levels
        self.backbone = backbone.build()
        for number in range(levels[-1] + 1, 5):
            self.backbone.stage(number).requires_grad_(False)
        channels = [self.backbone.channels[level - 1] for level in levels]
        self.csip: nn.Module = nn.Identity()
        if fusion != "direct":
            self.csip = CSIP(channels, width, aa_kernel=aa_kernel, lateral=fusion == "csip")
            channels = [width] * len(levels)
        self.msff: nn.Module = nn.Identity()
        if any(refine):
            self.msff = MSFF(width, [*refine, 0, 0, 0, 0][: len(levels)], refine_width)
        self.embedding = _head(sum(channels), embedding, head)
        self.dim = embedding
        self.classifier = layers.init_normal(nn.Linear(embedding, num_classes), 0.001)
        self.level_classifiers = nn.ModuleList(
            layers.init_normal(nn.Linear(c, num_classes), 0.001) for c in channels if level_id
        )
        self.smoothing, self.margin, self.normalize = smoothing, margin, normalize
        self.triplet, self.level_id = triplet, level_id

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [B, embedding] of pictures [B, 3, H, W]."""
        return unit(self.embedding(torch.cat(self._pooled(images), 1)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Identity loss and triplet, both on the embedding v."""
        pooled = self._pooled(batch.images)
        v = self.embedding(torch.cat(pooled, 1))
        terms = {"id": losses.cross_entropy(self.classifier(v), batch.pids, self.smoothing)}
        if self.triplet:
            hardest = losses.batch_hard_triplet(
                v, batch.pids, self.margin, normalize=self.normalize
            )
            terms["triplet"] = self.triplet * hardest
        for level, x, classifier in zip(self.levels, pooled, self.level_classifiers, strict=False):
            own = losses.cross_entropy(classifier(x), batch.pids, self.smoothing)
            terms[f"level{level}"] = self.level_id * own
        return terms

    def stage_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Those of the stages up to the last of ``levels``; those behind it are never run."""
        return {f"stage {number}": x for number, x in enumerate(self._stages(images), 1)}

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The levels of the pyramid: sum of absolute values over channels."""
        pyramid = self._pyramid(images)
        return {f"M{level}": x.abs().sum(1) for level, x in zip(self.levels, pyramid, strict=True)}

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        """The maps that are fused, shallow to deep."""
        stages = self._stages(images)
        pyramid: list[Tensor] = self.msff(self.csip([stages[level - 1] for level in self.levels]))
        return pyramid

    def _stages(self, images: Tensor) -> list[Tensor]:
        """The maps C_1 to that of the last level."""
        if self.levels[-1] == 4:
            return self.backbone.stages(images)
        stages, x = [], self.backbone.stem(images)
        for number in range(1, self.levels[-1] + 1):
            x = self.backbone.stage(number)(x)
            stages.append(x)
        return stages

    def _pooled(self, images: Tensor) -> list[Tensor]:
        return [layers.global_avg_pool(x) for x in self._pyramid(images)]


def _head(inputs: int, outputs: int, order: Literal["fc-bn-relu", "bn-fc-relu"]) -> nn.Sequential:
    if order == "bn-fc-relu":
        linear = nn.Linear(inputs, outputs, bias=False)
        return nn.Sequential(nn.BatchNorm1d(inputs), layers.init_normal(linear, 0.01), nn.ReLU())
    linear = layers.init_normal(nn.Linear(inputs, outputs), 0.01)
    return nn.Sequential(linear, nn.BatchNorm1d(outputs), nn.ReLU())
