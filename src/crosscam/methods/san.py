"""SAN: a decoder paints the person's texture, and the encoder learns what it needs for that.

Jin, Lan, Zeng, Wei, Chen: "Semantics-Aligned Representation Learning for Person
Re-identification" (Semantics Aligning Network), AAAI 2020, arXiv 1905.13143.

A texture is the unrolled surface of the body: a texel is the same place of the body in every
pose and view.  During training a decoder (SA-Dec, ``nn.texture_decoder``) turns the stage maps
of the encoder (SA-Enc) into the whole texture, what the camera does not see included.  With v the
feature, T the texture of picture i and d_l the four maps of the decoder:

    L_ID       cross-entropy of W v with label smoothing 0.1
    L_Triplet  batch-hard hinge on v, margin 0.3, Euclidean
    L_Rec      mean |decoded - T|
    L_TR       sum over l and triplets (a, p, n) of max(0, D(d_l a, d_l p) - D(d_l a, d_l n) + 0.3)

Cells of d_l can be compared place by place, because places are aligned.  A batch makes two
updates, one after the other: A minimizes L_ID + L_Triplet over encoder and head, B minimizes
L_Rec + L_TR over encoder and decoder and leaves the head as it is.  Deployed are encoder and head.

Defaults are the authors' release: v is Linear 2048 -> 512, BN, ReLU; all weights 1; D is the mean
squared difference.  The paper, all from memory: no such layer (``embedding=0``), weights
0.5, 1.5, 1 and 1 (``identity``, ``triplet``), D the mean distance of cells
(``constraint_form=paper``), no skips from encoder to decoder (``skips=False``).  So is the margin
0.3 of L_TR, in both forms.

Assumed, where neither says: the triplets of ``constraint_form=paper`` and that their mean is
taken; the half batch of rendered pairs and its weight (``data.pairs``, ``synthetic``); the
bilinear resize of pictures; textures of another size than the decoder's are averaged to it.

Ours: B runs the encoder a second time, since A has changed its weights, so that the encoder's
running statistics move twice a batch; texels of our own chart that lie on no body do not count in
L_Rec; pictures are brought to their size once and enlarged from
there before a random crop, where the release enlarges the original; AMSGrad from the first step on,
where the release warms up with a plain Adam; batch statistics of rendered pictures do not enter the
running ones; ``embed`` gives v scaled to length one; ``margin="soft"``; ``decoder_width``; rates of
B that follow the schedule (``scheduled``).  B's Adam is blind to the scale of its losses, so that
what weighs the texture against identity is ``encoder_lr``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import InputError, RecipeError
from crosscam.methods import (
    Adam,
    BackboneSettings,
    Method,
    Update,
    require_margin,
    require_share,
    unit,
)
from crosscam.nn import layers, losses, sync
from crosscam.nn.texture_decoder import Decoded, TextureDecoder, texture_loss
from crosscam.types import Batch, Prior

Triplets = tuple[list[int], list[int], list[int]]
"""Rows of anchors, positives and negatives."""


class SAN(Method):
    """Semantics Aligning Network.

    Args:
        num_classes: training identities N.
        backbone: network and its options; its last two stages must have stride 16.
        embedding: width of Linear + BN + ReLU behind the pooling; 0 leaves it out.
        smoothing: label smoothing epsilon, in [0, 1).
        margin: margin of the batch-hard triplet on Euclidean distances, or soft.
        normalize: the triplet compares features of length one (ours).  Plain distances, from random
            weights at high rates, pull all features together, and no layer behind undoes that.
        identity: weight of the cross-entropy.
        triplet: weight of the batch-hard triplet.
        reconstruction: weight of the error of the decoded texture; 0 turns it off.
        constraint: weight of the triplets on the decoder's maps; 0 turns them off.
        constraint_form: how those are drawn and measured, as in the release or the paper.
        constraint_margin: their margin.
        synthetic: weight of the error on rendered pairs, where the batch brings some (data.pairs).
        target: what is decoded, the texture, or as a control the picture itself.
        alternate: two alternating updates; off: one joint one.
        skips: maps of the encoder's stages go to the decoder.
        decoder_width: factor on the decoder's channels.
        encoder_lr: learning rate of the encoder in update B.
        decoder_lr: learning rate of the decoder in update B.
        scheduled: those two follow the recipe's schedule; else they are constant.
        regularizer: keywords of ``Method``.
    """

    paper: ClassVar[str] = (
        "Jin et al., Semantics-Aligned Representation Learning for Person Re-identification, "
        "AAAI 2020, arXiv 1905.13143"
    )
    needs = frozenset({Prior.TEXTURE})
    takes_pairs = True
    recipe: ClassVar[Mapping[str, Any]] = {
        "sampler.kind": "grouped",
        "sampler.people": 16,
        "sampler.images": 4,
        "augment.pad": 0,
        "augment.resize_crop": 0.5,
        "optimizer.name": "amsgrad",
        "optimizer.lr": 8e-4,
        "optimizer.weight_decay": 5e-4,
        # 20 epochs of warm-up (8e-6 times 1.259 an epoch), then 300 that are halved seven times
        "schedule.epochs": 320,
        "schedule.warmup": "exponential",
        "schedule.warmup_epochs": 20,
        "schedule.warmup_start": 0.01,
        "schedule.milestones": [60, 100, 140, 180, 220, 260, 300],
        "schedule.gamma": 0.5,
    }

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: BackboneSettings = BackboneSettings("resnet50", last_stride=1),  # noqa: B008
        embedding: int = 512,
        smoothing: float = 0.1,
        margin: float | Literal["soft"] = 0.3,
        normalize: bool = False,
        identity: float = 1.0,
        triplet: float = 1.0,
        reconstruction: float = 1.0,
        constraint: float = 1.0,
        constraint_form: Literal["release", "paper"] = "release",
        constraint_margin: float = 0.3,
        synthetic: float = 1.0,
        target: Literal["texture", "picture"] = "texture",
        alternate: bool = True,
        skips: bool = True,
        decoder_width: float = 1.0,
        encoder_lr: float = 1e-5,
        decoder_lr: float = 1e-5,
        scheduled: bool = False,
        **regularizer: Any,
    ) -> None:
        super().__init__(**regularizer)
        require_share(smoothing=smoothing)
        require_margin(margin=margin, constraint_margin=constraint_margin)
        weights = (identity, triplet, reconstruction, constraint, synthetic)
        if min(*weights, encoder_lr, decoder_lr) < 0 or embedding < 0:
            raise RecipeError(
                "weights and learning rates of san and method.embedding must be 0 or more, got "
                f"{weights}, {encoder_lr}, {decoder_lr} and {embedding}."
            )
        self.backbone = backbone.build()
        self.dim = embedding or self.backbone.channels[-1]
        self.embedding = (
            nn.Sequential(
                layers.init_normal(nn.Linear(self.backbone.channels[-1], embedding), 0.01),
                nn.BatchNorm1d(embedding),
                nn.ReLU(),
            )
            if embedding
            else nn.Identity()
        )
        self.classifier = layers.init_normal(nn.Linear(self.dim, num_classes), 0.01)
        self.decoder = (
            TextureDecoder(
                self.backbone.channels, self.backbone.strides, width=decoder_width, skips=skips
            )
            if reconstruction or constraint
            else None
        )
        if self.decoder is not None and not reconstruction:
            self.decoder.paint.requires_grad_(False)  # nothing is learned from what it paints
        if not reconstruction or target == "picture":
            self.needs = frozenset()
        self.takes_pairs = bool(reconstruction and synthetic)
        self.smoothing, self.margin, self.normalize = smoothing, margin, normalize
        self.identity, self.triplet = identity, triplet
        self.reconstruction, self.constraint, self.synthetic = reconstruction, constraint, synthetic
        self.constraint_form, self.constraint_margin = constraint_form, constraint_margin
        self.target, self.alternate = target, alternate
        self.encoder_lr, self.decoder_lr, self.scheduled = encoder_lr, decoder_lr, scheduled

    # --- what is deployed ---------------------------------------------------------------------

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [B, dim] of pictures [B, 3, H, W]: v of the paper, normalized."""
        return unit(self._feature(self.backbone(images)))

    def _feature(self, c4: Tensor) -> Tensor:
        v: Tensor = self.embedding(layers.global_avg_pool(c4))
        return v

    # --- what is learned ----------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """All terms, of one pass of the encoder: the joint update."""
        rows = self._rows(batch)
        stages = self.backbone.stages(batch.images)
        return self._identify(stages, batch) | self._align(stages, batch, rows)

    def updates(self) -> tuple[Update, ...]:
        """A and B, or the joint one."""
        decoder = self.decoder
        if decoder is None or not self.alternate:
            return super().updates()
        modules: Sequence[nn.Module] = (self.backbone, self.embedding, self.classifier)
        betas = (0.5, 0.999)
        return (
            Update(
                lambda batch: self._identify(self.backbone.stages(batch.images), batch),
                lambda: _parameters(*modules),
            ),
            Update(
                self._align_anew,
                lambda: _parameters(self.backbone, decoder),
                (
                    Adam(self.backbone.parameters, self.encoder_lr, betas, self.scheduled),
                    Adam(decoder.parameters, self.decoder_lr, betas, self.scheduled),
                ),
            ),
        )

    def _identify(self, stages: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """L_ID and L_Triplet."""
        v = self._feature(stages[-1])
        logits = self.classifier(v)
        hardest = losses.batch_hard_triplet(v, batch.pids, self.margin, normalize=self.normalize)
        return {
            "id": self.identity * losses.cross_entropy(logits, batch.pids, self.smoothing),
            "triplet": self.triplet * hardest,
        }

    def _align_anew(self, batch: Batch) -> dict[str, Tensor]:
        """L_Rec and L_TR, by a pass of their own."""
        rows = self._rows(batch)
        return self._align(self.backbone.stages(batch.images), batch, rows)

    def _rows(self, batch: Batch) -> Tensor | None:
        """The triplets of L_TR, drawn before anything is computed: a compiler cannot trace it."""
        if self.decoder is None or not self.constraint:
            return None
        rows: Tensor = drawn_triplets(batch, self.constraint_form)
        return rows

    def _align(
        self, stages: Sequence[Tensor], batch: Batch, rows: Tensor | None
    ) -> dict[str, Tensor]:
        """L_Rec and L_TR."""
        if self.decoder is None:
            return {}
        decoded: Decoded = self.decoder(stages)
        terms = {}
        if self.reconstruction:
            error = texture_loss(decoded.texture, self._target(batch, decoded.texture))
            terms["texture"] = self.reconstruction * error
        if rows is not None:
            hinges = [
                triplet_constraint(maps, level, self.constraint_form, self.constraint_margin)
                for maps, level in zip(decoded.maps, rows, strict=True)
            ]
            terms["constraint"] = self.constraint * torch.stack(hinges).sum()
        if self.reconstruction and self.synthetic and batch.pairs is not None:
            # Those of a teacher too, whose attention is on the way through the encoder.
            with layers.running_statistics_untouched(self):
                painted = self.decoder(self.backbone.stages(batch.pairs.images)).texture
            error = texture_loss(painted, self._target(batch.pairs, painted))
            terms["synthetic"] = self.synthetic * error
        return terms

    def _target(self, batch: Batch, painted: Tensor) -> Tensor:
        if self.target == "texture":
            return batch.require(Prior.TEXTURE)
        # Normalized pictures reach from about -2.1 to 2.6, textures from -1 to 1.
        return F.interpolate(batch.images / 2, painted.shape[2:], mode="bilinear")

    # --- to look at ---------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """What the decoder makes of pictures [B, 3, H, W]: textures [B, 3, T, T] in [-1, 1].

        Raises:
            InputError: trained without reconstruction, so that nothing learned to paint.
        """
        if self.decoder is None or not self.reconstruction:
            what = "reconstruction" if self.decoder is not None else "a decoder"
            raise InputError(
                f"this network was trained without {what} (method.reconstruction=0) and cannot "
                "paint textures. Train one with method.reconstruction=1, or a san_pg."
            )
        decoded: Decoded = self.decoder(self.backbone.stages(images))
        return decoded.texture.float().clamp(-1, 1)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The decoded textures, where the decoder learned to paint some."""
        if self.decoder is None or not self.reconstruction:
            return {}
        return {"texture": self.predict(images) / 2 + 0.5}


def triplets(pids: Sequence[int], form: Literal["release", "paper"]) -> list[Triplets]:
    """The triplets of L_TR for each of the four maps, as rows of a batch with labels ``pids``.

    Pictures of an identity are numbered 0 to K - 1 in the order of the batch, and identities
    follow each other as they first appear.  A number beyond K starts over.

    * release: at level l (0 to 3) picture l of an identity, the one after it, and a picture of
      the next identity with the same number l, but 0 at the last level.  The last identity has
      no next one.  With 16 x 4 pictures side by side these are the release's literal indices
      (i, i+1, i+4), (i+1, i+2, i+5), (i+2, i+3, i+6), (i+3, i, i+4), i = 0, 4, ..., 56.
    * paper (assumed): every picture, the one after it, and the picture of the next identity with
      the same number; after the last identity comes the first.  The same for all levels.

    Identities with one picture have no positive and are left out.
    """
    rows: dict[int, list[int]] = {}
    for row, pid in enumerate(pids):
        rows.setdefault(pid, []).append(row)
    people = list(rows.values())
    following = list(pairwise(people))
    if form == "paper" and len(people) > 1:
        following.append((people[-1], people[0]))
    levels: list[Triplets] = []
    for level in range(4):
        found: Triplets = ([], [], [])
        for own, other in following:
            if len(own) < 2:
                continue
            for number in range(len(own)) if form == "paper" else (level,):
                negative = number if form == "paper" else level % 3
                found[0].append(own[number % len(own)])
                found[1].append(own[(number + 1) % len(own)])
                found[2].append(other[negative % len(other)])
        levels.append(found)
    return levels


@torch.compiler.disable  # type: ignore[untyped-decorator]
def drawn_triplets(batch: Batch, form: Literal["release", "paper"]) -> Tensor:
    """The ``triplets`` of a batch on its device, [4, 3, T].  Nothing waits for a GPU."""
    rows = torch.tensor(triplets(batch.listed_pids(), form), dtype=torch.int64)
    if batch.pids.device.type == "cuda":
        return rows.pin_memory().to(batch.pids.device, non_blocking=True)
    return rows.to(batch.pids.device)


def triplet_constraint(
    maps: Tensor, rows: Triplets | Tensor, form: Literal["release", "paper"], margin: float
) -> Tensor:
    """Hinge of the triplets ``rows`` at one map [B, C, h, w] of the decoder.

    * release: D is the mean squared difference of all entries; the sum over triplets, of all
      processes (whose gradients are averaged, so each takes its own sum as many times).
    * paper: D is the mean over cells of the Euclidean distance of their C entries; the mean over
      triplets (assumed).

    ``rows`` are those of anchors, positives and negatives, lists or a tensor [3, T].  Without
    triplets 0, with a graph.  Float32, or float64 for float64 maps.
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    if len(rows[0]) == 0:
        return maps.sum(dtype=wide) * 0.0
    with torch.autocast(maps.device.type, enabled=False):
        anchor, positive, negative = (maps[r].to(wide) for r in rows)
        closer = _distance(anchor, positive, form) - _distance(anchor, negative, form)
        hinge = F.relu(closer + margin)  # [triplets]
        return hinge.sum() * sync.world_size() if form == "release" else hinge.mean()


def _distance(a: Tensor, b: Tensor, form: Literal["release", "paper"]) -> Tensor:
    squares = (a - b).square()
    if form == "release":
        return squares.mean((1, 2, 3))
    return squares.sum(1).clamp(min=losses.MIN_SQUARED).sqrt().mean((1, 2))


def _parameters(*modules: nn.Module) -> Iterable[nn.Parameter]:
    return chain.from_iterable(module.parameters() for module in modules)
