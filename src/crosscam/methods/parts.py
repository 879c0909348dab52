"""A part network of our own: which cells of a picture show which part of a body.

No paper.  It learns the part labels of rendered people (``crosscam synth``), so that no picture,
label or weight of anybody goes into it, and then makes the part masks of real training pictures
(``crosscam prior masks``), from which MPN and MMGA learn.  It tells nobody apart: person ids are
not read.

An encoder (any backbone) and a feature pyramid (Lin et al., CVPR 2017): each stage map is reduced
to ``width`` channels and joined to what was enlarged from below; the finest sum is enlarged once
more and meets a shallow path of the picture at half its size, where edges are.  With q the shares
of the labels in a cell,

    L = mean over the cells of all rows that have masks of  - sum_l q_l log p_l

A cell's background is what no part covers.

With ``surface`` above 0 it also learns where on the body each cell lies, by L1:

    + surface * mean over the cells that show the body of |p - p*|_1

p is a point of the mean body at rest, in meters (``Prior.SURFACE``), and not a pair (u, v) of the
texture: the texture is cut, so what lies between two neighbors' (u, v) may be anywhere, while
points are as continuous as the body is, and a mirror only negates their x.  The point is looked up
in the texture at the end (:mod:`crosscam.priors.surface`), which is what makes textures of
pictures (``crosscam prior texture``).

``embed`` gives the pooled last map, so that a part network is measured and searched with like any
method; it is not meant to be good at that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosscam.errors import InputError, RecipeError
from crosscam.methods import BackboneSettings, Method, unit
from crosscam.nn import layers
from crosscam.types import BODY_PARTS, Batch, Prior

COLORS = (
    (0, 0, 0),
    (250, 190, 150),
    (230, 140, 110),
    (255, 90, 90),
    (200, 60, 150),
    (255, 160, 160),
    (230, 130, 200),
    (90, 200, 255),
    (70, 110, 255),
    (160, 230, 255),
    (150, 170, 255),
    (120, 80, 40),
    (240, 220, 60),
    (60, 170, 90),
    (150, 150, 150),
    (255, 140, 0),
    (190, 190, 120),
)
"""How each label is shown, R G B; the background is black."""

PLACED = tuple(i for i, name in enumerate(BODY_PARTS) if name not in ("background", "bag"))
"""Labels of what has a place on the body."""

MIDDLE, SPAN = (0.0, 0.0, 0.9), (0.8, 0.2, 0.9)
"""The middle of the body at rest, and how far it reaches from there, in meters."""

# What a channel of masks shows besides the label of its name.
INSIDE = {"head": ("hair", "hat"), "shoes": ("left foot", "right foot")}


class Parts(Method):
    """Part labels of rendered people, at half the size of the picture.

    Args:
        num_classes: training identities; not used, nobody is told apart.
        backbone: network and its options.
        width: channels of the pyramid.
        edges: channels of the shallow path at half the picture's size.
        surface: weight of the places on the body; 0 does not learn them.
        regularizer: keywords of ``Method``.
    """

    paper: ClassVar[str] = (
        "none; an encoder with a feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144) trained "
        "on rendered people"
    )
    needs = frozenset({Prior.MASKS})
    parts = BODY_PARTS[1:]
    recipe: ClassVar[Mapping[str, Any]] = {
        "sampler.kind": "shuffle",
        "augment.erase": 0.0,
        "augment.jitter": 0.8,
        "optimizer.name": "adamw",
        "optimizer.lr": 2e-3,
        "optimizer.weight_decay": 1e-2,
        "schedule.epochs": 8,
        "schedule.kind": "cosine",
        "schedule.every": "step",
        "schedule.warmup_epochs": 0.5,
    }

    labels: tuple[str, ...] = BODY_PARTS
    """What the channels of ``predict`` mean."""

    def __init__(
        self,
        num_classes: int,  # noqa: ARG002
        *,
        backbone: BackboneSettings = BackboneSettings(  # noqa: B008
            "resnet18", last_stride=2, width=0.5
        ),
        width: int = 64,
        edges: int = 16,
        surface: float = 0.0,
        **regularizer: Any,
    ) -> None:
        super().__init__(**regularizer)
        if width < 1 or edges < 1:
            raise RecipeError(
                f"method.width and method.edges must be 1 or more, got {width} and {edges}."
            )
        if surface < 0:
            raise RecipeError(f"method.surface is a weight, 0 or more, got {surface}.")
        self.backbone = backbone.build()
        self.dim = self.backbone.channels[-1]
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in self.backbone.channels)
        self.joined = layers.conv3x3(width, width)
        self.edges = layers.conv3x3(3, edges, stride=2)
        self.fine = layers.conv3x3(width + edges, width // 2 or 1)
        self.score = nn.Conv2d(width // 2 or 1, len(self.labels), 1)
        for module in (self.lateral, self.joined, self.edges, self.fine):
            layers.init_kaiming(module)
        self.surface = surface
        if surface:
            self.needs = self.needs | {Prior.SURFACE}
            found = nn.Conv2d(width, 3, 1)  # begins with the middle of the body everywhere
            nn.init.normal_(found.weight, std=0.01)
            found.bias = nn.Parameter(torch.tensor(MIDDLE))
            first = layers.init_kaiming(layers.conv3x3(width + edges, width))
            self.place = nn.Sequential(first, found)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [B, dim] of pictures [B, 3, H, W]: the mean of the encoder's last map."""
        return unit(layers.global_avg_pool(self.backbone(images)))

    def predict(self, images: Tensor) -> Tensor:
        """Logits [B, L, h, w] of ``labels``, h w half of H W, of pictures [B, 3, H, W]."""
        logits: Tensor = self.score(self.fine(self._joined(images)))
        return logits

    def locate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``predict``, and where on the body each cell lies, if it lies there.

        Returns:
            Logits [B, L, h, w], and points [B, 3, h, w] of the mean body at rest, in meters: x
            towards the person's left, y towards the back, z up from the ground.

        Raises:
            InputError: it has not learned places.
        """
        if not self.surface:
            raise InputError(
                "this part network has not learned places on the body. Train one that does: "
                "crosscam train parts method.surface=2."
            )
        joined = self._joined(images)
        return self.score(self.fine(joined)), self.place(joined)

    def _joined(self, images: Tensor) -> Tensor:
        """The pyramid's finest sum at half the picture's size, beside the shallow path."""
        maps = self.backbone.stages(images)
        x: Tensor = self.lateral[-1](maps[-1])
        for conv, finer in zip(self.lateral[-2::-1], maps[-2::-1], strict=True):
            x = conv(finer) + _enlarged(x, finer)
        edges = self.edges(images)
        return torch.cat([_enlarged(self.joined(x), edges), edges], 1)

    @torch.no_grad()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The likeliest labels of pictures [B, 3, H, W] as colors, and how sure a person is.

        And, if they were learned, the places on the body: how far left, back and up.
        """
        logits, points = self.locate(images) if self.surface else (self.predict(images), None)
        colors = torch.tensor(COLORS, device=logits.device) / 255  # [17, 3]
        person = 1 - logits.float().softmax(1)[:, 0]
        shown = {"parts": colors[logits.argmax(1)].permute(0, 3, 1, 2), "person": person}
        if points is not None:
            on_body = torch.isin(logits.argmax(1), torch.tensor(PLACED, device=logits.device))
            shown["surface"] = place_colors(points.float()) * on_body[:, None]
        return shown

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the shares of the labels in every cell, and L1 of the places."""
        masks = batch.require(Prior.MASKS)
        if self.surface:
            logits, points = self.locate(batch.images)
        else:
            logits, points = self.predict(batch.images), None
        with torch.autocast(logits.device.type, enabled=False):
            size = (int(logits.shape[2]), int(logits.shape[3]))
            shares = F.adaptive_avg_pool2d(label_shares(masks.float()), size)
            far = -(shares * F.log_softmax(logits.float(), 1)).sum(1).mean((1, 2))  # [B]
            counted = (masks.amax((1, 2, 3)) > 0).float()
            losses = {"parts": (far * counted).sum() / counted.sum().clamp(min=1)}
            if points is not None:
                far = surface_distance(points.float(), batch.require(Prior.SURFACE))
                losses["surface"] = self.surface * far
            return losses


def place_colors(points: Tensor) -> Tensor:
    """Points [..., 3, h, w] of the body at rest, in meters, as colors [..., 3, h, w] in [0, 1].

    Left is redder, back greener, up bluer; NaN is black, which no place on the body is.
    """
    middle, span = (points.new_tensor(v)[:, None, None] for v in (MIDDLE, SPAN))
    shares = ((points - middle) / span / 2 + 0.5).clamp(0, 1)
    return ((40 + 215 * shares) / 255).nan_to_num(0.0)


def surface_distance(points: Tensor, places: Tensor) -> Tensor:
    """Mean L1 distance, in meters, of points [B, 3, h, w] to places [B, 3, H, W], NaN for none.

    Every cell of ``places`` is compared with the cell of ``points`` that it lies in: the target of
    a coarse cell is then not the mean of an arm and of the belly behind it.  0 without any place.
    """
    if points.shape[2:] != places.shape[2:]:
        points = F.interpolate(points, (int(places.shape[2]), int(places.shape[3])))
    known = ~places.isnan()
    far = (points - torch.where(known, places, 0.0)).abs() * known
    return far.sum() / known[:, 0].sum().clamp(min=1)


def label_shares(masks: Tensor) -> Tensor:
    """Channels [B, 16, h, w] of the parts to shares [B, 17, h, w] of the labels in every cell.

    A channel of masks may hold others (``INSIDE``), which are taken off it; what no part covers
    is background.
    """
    names = BODY_PARTS[1:]
    shares = [masks[:, i] for i in range(len(names))]
    for name, inner in INSIDE.items():
        held = sum(masks[:, names.index(label)] for label in inner)
        shares[names.index(name)] = (masks[:, names.index(name)] - held).clamp(min=0)
    parts = torch.stack(shares, 1)
    return torch.cat([(1 - parts.sum(1, keepdim=True)).clamp(min=0), parts], 1)


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    size = (int(like.shape[2]), int(like.shape[3]))
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
