"""The strong baseline with BNNeck.

Luo, Gu, Liao, Lai, Jiang: "Bag of Tricks and a Strong Baseline for Deep Person
Re-Identification", CVPR Workshops 2019, arXiv 1903.07071.

One pooled feature f_t carries the metric losses, its batch-normalized copy f_i the identity
loss, and f_i is what is deployed (section 3.5, "BNNeck"):

    L = CE_smooth(W f_i, y) + Triplet_batch-hard(f_t, y) + 0.0005 * Center(f_t, y)

Every trick of the paper is a keyword: last stride 1 (section 3.4, in ``backbone``), label
smoothing (3.3), BNNeck (3.5), center loss (3.6); warm-up (3.1) and random erasing (3.2) are in
``recipe``.

Ours, not the paper's: ``embedding`` puts Linear + BN + ReLU behind the pooling; ``dropout``;
``margin="soft"`` is the soft-margin triplet; ``triplet_from`` lets the triplet join after that
share of training, because from random weights a hinge triplet of step one pulls all features
together and training stays there (docs/LOG.md); the gradient of the centers is taken with the
loss weight divided out, as the paper's release does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from crosscam.errors import RecipeError
from crosscam.methods import BackboneSettings, Method, require_margin, require_share, unit
from crosscam.nn import layers, losses
from crosscam.types import Batch


class Baseline(Method):
    """Strong baseline with BNNeck; every trick is a keyword.

    Args:
        num_classes: training identities N.
        backbone: network and its options.
        pool: how the last map becomes one vector.
        embedding: width of an extra Linear + BN + ReLU behind the pooling; 0 leaves it out.
        slope: of that ReLU below zero (MPN's first step: 0.1).
        embedding_init: first weights of that layer: N(0, 0.01), or Kaiming's by fan-out with
            N(1, 0.02) in the normalization (MPN's first step).
        bnneck: classify and deploy the batch-normalized feature (off: the pooled one).
        dropout: probability of dropping an input of the classifier, in [0, 1).
        classifier_bias: the classifier has biases (MPN's first step); the paper wants none behind
            BNNeck.
        smoothing: label smoothing epsilon, in [0, 1).
        margin: margin of the batch-hard triplet on Euclidean distances, or soft.
        normalize: the triplet compares features of length one (ours).  Plain distances, from random
            weights at high rates, pull all features together, and no layer behind undoes that.
        triplet: weight of the triplet; 0 turns it off.
        triplet_from: share of training, in [0, 1), after which the triplet joins.
        center: weight of the center loss; 0 turns it off.
        center_lr: learning rate of the centers' own SGD.
        regularizer: keywords of ``Method``.
    """

    paper: ClassVar[str] = (
        "Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-Identification, "
        "CVPRW 2019, arXiv 1903.07071"
    )
    recipe: ClassVar[Mapping[str, Any]] = {
        "sampler.people": 16,
        "sampler.images": 4,
        "optimizer.name": "adam",
        "optimizer.lr": 3.5e-4,
        "optimizer.weight_decay": 5e-4,
        "schedule.epochs": 120,
        "schedule.milestones": [40, 70],
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: BackboneSettings = BackboneSettings("resnet50", last_stride=1),  # noqa: B008
        pool: Literal["avg", "max", "gem"] = "avg",
        embedding: int = 0,
        slope: float = 0.0,
        embedding_init: Literal["normal", "kaiming"] = "normal",
        bnneck: bool = True,
        dropout: float = 0.0,
        classifier_bias: bool = False,
        smoothing: float = 0.1,
        margin: float | Literal["soft"] = 0.3,
        normalize: bool = False,
        triplet: float = 1.0,
        triplet_from: float = 0.0,
        center: float = 0.0005,
        center_lr: float = 0.5,
        **regularizer: Any,
    ) -> None:
        super().__init__(**regularizer)
        require_share(smoothing=smoothing, triplet_from=triplet_from)
        require_margin(margin=margin)
        if not 0.0 <= dropout < 1.0 or embedding < 0:
            raise RecipeError(
                f"method.dropout must be in [0, 1) and method.embedding 0 or more, got {dropout} "
                f"and {embedding}."
            )
        if min(triplet, center) < 0:
            raise RecipeError(
                "method.triplet and method.center are weights, 0 or more; got "
                f"{triplet} and {center}."
            )
        self.backbone = backbone.build()
        self.dim = embedding or self.backbone.channels[-1]
        self.pool = _POOLS[pool]()
        self.embedding = (
            _embedding(self.backbone.channels[-1], embedding, slope, embedding_init)
            if embedding
            else nn.Identity()
        )
        self.neck = layers.BNNeck(self.dim) if bnneck else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.classifier = layers.init_normal(
            nn.Linear(self.dim, num_classes, bias=classifier_bias), 0.001
        )
        self.centers = losses.CenterLoss(num_classes, self.dim) if center else None
        if self.centers is not None:
            # The paper divides the loss weight out of the gradient and gives the centers an SGD
            # of their own; the training loop reads the attribute.
            self.centers.own_sgd_lr = center_lr  # type: ignore[assignment]
            self.centers.centers.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: gradient / center
            )
        self.smoothing, self.center = smoothing, center
        self.margin, self.normalize = margin, normalize
        self.triplet, self.triplet_from = triplet, triplet_from
        self.joined = triplet > 0 and triplet_from == 0.0

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [B, dim] of pictures [B, 3, H, W]: f_i of the paper, normalized."""
        return unit(self.neck(self._pooled(images)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Identity loss on f_i, triplet and center loss on f_t."""
        f_t = self._pooled(batch.images)
        f_i = self.neck(f_t)
        logits = self.classifier(self.dropout(f_i))
        terms = {"id": losses.cross_entropy(logits, batch.pids, self.smoothing)}
        if self.joined:
            hardest = losses.batch_hard_triplet(
                f_t, batch.pids, self.margin, normalize=self.normalize
            )
            terms["triplet"] = self.triplet * hardest
        if self.centers is not None:
            terms["center"] = self.center * self.centers(f_t, batch.pids)
        return terms

    def schedule(self, progress: float) -> None:
        """Lets the triplet join after ``triplet_from`` of training."""
        self.joined = self.triplet > 0 and progress >= self.triplet_from

    def _pooled(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.embedding(self.pool(self.backbone(images)))
        return pooled


def _embedding(
    inputs: int, outputs: int, slope: float, init: Literal["normal", "kaiming"]
) -> nn.Sequential:
    linear, norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)
    if init == "kaiming":
        layers.init_kaiming(linear, "fan_out")
        layers.init_norm(norm, 0.02)
    else:
        layers.init_normal(linear, 0.01)
    return nn.Sequential(linear, norm, nn.LeakyReLU(slope))


class _Pool(nn.Module):
    """A pooling function as a layer, so that it shows when the network is printed."""

    def __init__(self, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum

    def forward(self, maps: Tensor) -> Tensor:
        return layers.global_max_pool(maps) if self.maximum else layers.global_avg_pool(maps)


_POOLS: dict[str, Callable[[], nn.Module]] = {
    "avg": lambda: _Pool(False),
    "max": lambda: _Pool(True),
    "gem": layers.GeM,
}
