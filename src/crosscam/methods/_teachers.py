"""Teachers: what guides the training of any method beside its own losses.

    method=mpn+texture              MPN that also learns to paint textures, as SAN does
    method=mpn+guidance             MPN behind attention that body masks guide, as in MMGA
    method=baseline+guidance+texture

A teacher is a class that comes before the method's own in the order of inheritance: it adds
keywords to the constructor, stands on the stage maps of ``self.backbone``, and adds its losses to
the first update of a batch.  The rest (settings of the paper, names of the weights, the gradient
regularizer) stays the method's.  Compositions are ours and no paper's.

MPN's auxiliary tasks are no teacher of this kind: they share all layers with the main tasks,
which are what MPN deploys, so they cannot be taken out of it and put onto another method.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crosscam.errors import RecipeError
from crosscam.methods import Method, Update, require_margin
from crosscam.methods.mmga import mask_distance, usable
from crosscam.methods.san import drawn_triplets, triplet_constraint
from crosscam.nn.attention import ChannelGate, SpatialMap, attend
from crosscam.nn.stages import Backbone
from crosscam.nn.texture_decoder import Decoded, TextureDecoder, texture_loss
from crosscam.types import Batch, Prior
from crosscam.wording import did_you_mean

Losses = Callable[[Batch], dict[str, Tensor]]


class Guidance(Method):
    """Attention that body masks guide, on stage maps of any method.

    MMGA's attention (Cai et al., CVPRW 2019, as ``methods.mmga`` reconstructs it): the map of a
    stage is multiplied by gate and map of the stage before.  The attention stays at test, where it
    is computed from the picture; the masks do not.

    Args:
        guidance: weight of the distance of the maps to the masks; 0 learns attention without.
        guidance_loss: that distance, squared error or binary cross-entropy.
        guidance_stages: which stage maps, 2 to 4.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        guidance: float = 1.0,
        guidance_loss: Literal["mse", "bce"] = "mse",
        guidance_stages: tuple[int, ...] = (2, 4),
        **options: Any,
    ) -> None:
        super().__init__(num_classes, **options)  # type: ignore[call-arg]
        if guidance < 0:
            raise RecipeError(f"method.guidance must be 0 or more, got {guidance}.")
        stages = tuple(sorted(set(guidance_stages)))
        if not stages or set(stages) - {2, 3, 4} or len(stages) < len(guidance_stages):
            raise RecipeError(
                "method.guidance_stages must name stages 2 to 4, each once, got "
                f"{list(guidance_stages)}."
            )
        net = _backbone(self)
        self.guide = _Attention(net, stages)
        self.guidance, self.guidance_loss = guidance, guidance_loss
        self.untaught = self.parts  # channels of masks that the method itself reads
        if guidance:
            self.needs = self.needs | {Prior.MASKS}
            self.parts = (*self.parts, "whole")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The method's own, and how far the attention is from the masks."""
        return self._guided(super().losses, batch)  # type: ignore[safe-super]

    def updates(self) -> tuple[Update, ...]:
        """The method's own; the first also moves the attention."""
        return _taught(self, super().updates(), self._guided, self.guide)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The method's own, and the attention maps [B, h, w] in (0, 1)."""
        own = super().maps(images)
        with torch.no_grad(), self.guide.watched() as passes:
            self.embed(images)
        found = {f"attention, stage {k}": torch.sigmoid(v[0].float()) for k, v in passes.items()}
        return own | found

    def _guided(self, losses: Losses, batch: Batch) -> dict[str, Tensor]:
        if not self.guidance:
            return losses(batch)
        masks = batch.require(Prior.MASKS)
        own: dict[Prior, Tensor] = dict(batch.priors)
        own.pop(Prior.MASKS)
        if self.untaught:
            own[Prior.MASKS] = masks[:, : len(self.untaught)]
        with self.guide.watched() as passes:
            terms = losses(dataclasses.replace(batch, priors=own))
        whole = masks[:, len(self.untaught)]
        counted = usable(whole[:, None])
        # A method may run its backbone on other pictures afterwards; the batch comes first.
        far = [
            mask_distance(logits[0], whole, counted, self.guidance_loss)
            for logits in passes.values()
        ]
        return {**terms, "guidance": self.guidance * torch.stack(far).mean()}


class Texture(Method):
    """A decoder that paints the person's texture from the stage maps of any method.

    SAN's (Jin et al., AAAI 2020; ``methods.san``), in the joint form: its losses are added to
    those of the method.  The decoder is thrown away.

    Args:
        texture: weight of the reconstruction error.
        texture_constraint: weight of the triplets on the decoder's maps, as in SAN's release.
        texture_margin: their margin.
        texture_width: factor on the decoder's channels.
        texture_skips: maps of all stages go to the decoder (off: the last one alone).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        texture: float = 1.0,
        texture_constraint: float = 0.0,
        texture_margin: float = 0.3,
        texture_width: float = 1.0,
        texture_skips: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, **options)  # type: ignore[call-arg]
        require_margin(texture_margin=texture_margin)
        if texture <= 0 or texture_constraint < 0:
            raise RecipeError(
                "method.texture must be above 0 and method.texture_constraint 0 or more, got "
                f"{texture} and {texture_constraint}."
            )
        net = _backbone(self)
        self.painter = TextureDecoder(
            net.channels, net.strides, width=texture_width, skips=texture_skips
        )
        self.texture = texture
        self.texture_constraint, self.texture_margin = texture_constraint, texture_margin
        self.needs = self.needs | {Prior.TEXTURE}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The method's own, and the error of the painted texture."""
        return self._painted(super().losses, batch)  # type: ignore[safe-super]

    def updates(self) -> tuple[Update, ...]:
        """The method's own; the first also moves the decoder."""
        return _taught(self, super().updates(), self._painted, self.painter)

    def _painted(self, losses: Losses, batch: Batch) -> dict[str, Tensor]:
        target = batch.require(Prior.TEXTURE)
        levels = drawn_triplets(batch, "release") if self.texture_constraint else None
        passes: dict[int, list[Tensor]] = {}
        with _kept(_backbone(self), (1, 2, 3, 4), passes):
            terms = losses(batch)
        stages = [_first(passes, number) for number in (1, 2, 3, 4)]
        decoded: Decoded = self.painter(stages)
        terms = {**terms, "texture": self.texture * texture_loss(decoded.texture, target)}
        if levels is not None:
            hinges = [
                triplet_constraint(maps, level, "release", self.texture_margin)
                for maps, level in zip(decoded.maps, levels, strict=True)
            ]
            terms["constraint"] = self.texture_constraint * torch.stack(hinges).sum()
        return terms


TEACHERS = {"guidance": Guidance, "texture": Texture}


def compose(base: type[Method], names: Sequence[str]) -> type[Method]:
    """The method ``base`` under the teachers ``names``.

    Raises:
        RecipeError: a teacher that there is not, or one named twice.
    """
    for name in names:
        if name not in TEACHERS:
            raise RecipeError(
                f"there is no teacher '{name}'.{did_you_mean(name, TEACHERS)} Known: "
                f"{', '.join(TEACHERS)}. Write method=mpn+texture, for example."
            )
    if len(set(names)) < len(names):
        raise RecipeError(f"a teacher can be named once, got {'+'.join(names)}.")
    about = {
        "paper": f"{base.paper}; taught by {' and '.join(names)} (a composition of ours)",
        "__doc__": base.__doc__,
        "__module__": base.__module__,
    }
    classes: list[type] = [TEACHERS[name] for name in names]
    bases = (*classes, base)
    title = "".join(cls.__name__ for cls in bases)
    found: type[Method] = types.new_class(title, bases, exec_body=lambda space: space.update(about))
    return found


class _Attention(nn.Module):
    """Gates and maps, put behind the stages of a backbone for good."""

    def __init__(self, net: Backbone, stages: Sequence[int]) -> None:
        super().__init__()
        sizes = net.channels
        self.gates = nn.ModuleDict(
            {str(k): ChannelGate(sizes[k - 2], sizes[k - 1]) for k in stages}
        )
        self.cells = nn.ModuleDict({str(k): SpatialMap(sizes[k - 2]) for k in stages})
        self.stages = tuple(stages)
        self.passes: dict[int, list[Tensor]] | None = None
        for number in stages:
            net.stage(number).register_forward_hook(functools.partial(self.attended, number))

    def attended(
        self, number: int, _stage: nn.Module, inputs: tuple[Tensor, ...], later: Tensor
    ) -> Tensor:
        """The map of stage ``number``, which was computed from inputs, under attention."""
        size = (int(later.shape[2]), int(later.shape[3]))
        logits = self.cells[str(number)](inputs[0], size)
        if self.passes is not None:
            self.passes.setdefault(number, []).append(logits)
        return attend(later, self.gates[str(number)](inputs[0]), logits)

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[int, list[Tensor]]]:
        """Keeps the logits [B, h, w] of every pass, by stage."""
        passes: dict[int, list[Tensor]] = {}
        self.passes = passes
        try:
            yield passes
        finally:
            self.passes = None
        for number in self.stages:
            _first(passes, number)


@contextlib.contextmanager
def _kept(net: Backbone, numbers: Sequence[int], passes: dict[int, list[Tensor]]) -> Iterator[None]:
    """Keeps the stage maps of every pass, by stage."""

    def keep(number: int, _stage: nn.Module, _inputs: object, x: Tensor) -> None:
        passes.setdefault(number, []).append(x)

    handles = [
        net.stage(number).register_forward_hook(functools.partial(keep, number))
        for number in numbers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(passes: dict[int, list[Tensor]], number: int) -> Tensor:
    if number not in passes:
        raise RecipeError(
            f"this method does not run stage {number} of its backbone as a whole, so a teacher "
            "cannot stand on it. Choose other stages or another method."
        )
    return passes[number][0]


def _backbone(method: Method) -> Backbone:
    net = getattr(method, "backbone", None)
    if not isinstance(net, Backbone):
        raise RecipeError(
            "a teacher stands on the stages of `self.backbone`, and this method has none. Use the "
            "method without teachers."
        )
    return net


def _taught(
    method: Method,
    updates: tuple[Update, ...],
    teach: Callable[[Losses, Batch], dict[str, Tensor]],
    teacher: nn.Module,
) -> tuple[Update, ...]:
    """Updates whose first is taught, unless it goes through ``method.losses``, which is."""
    first, *rest = updates
    if first.losses == method.losses:
        return updates

    def parameters() -> Iterable[nn.Parameter]:
        yield from first.parameters()
        yield from teacher.parameters()

    return (Update(functools.partial(teach, first.losses), parameters, first.adams), *rest)
