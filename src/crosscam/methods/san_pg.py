"""SAN-PG: a network that paints the texture of a person in a picture.

Jin, Lan, Zeng, Wei, Chen: "Semantics-Aligned Representation Learning for Person
Re-identification", AAAI 2020, arXiv 1905.13143, the generator of pseudo textures.

Encoder and decoder of SAN with the reconstruction loss alone, L_Rec = mean |decoded - T|, learned
on pictures that were rendered from known textures T.  What it paints for real pictures is what
SAN learns from (``crosscam prior texture``).

Assumed, since of the training only data and loss are known: Adam with rate 1e-4 and betas (0.5,
0.999), 80 epochs, batches of 64; pictures and textures in RGB and [-1, 1].  Ours: pictures are
not mirrored, because a mirrored picture shows a mirrored texture; L_Rec counts the texels that
lie on the body; ``embed`` gives the encoder's pooled last map, scaled to length one, so that the
network can be looked at as any other; it has seen no identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from crosscam.methods import BackboneSettings, Method, unit
from crosscam.nn import layers
from crosscam.nn.texture_decoder import Decoded, TextureDecoder, texture_loss
from crosscam.types import Batch, Prior


class SANPG(Method):
    """The generator of textures.

    Args:
        num_classes: training identities; nothing depends on it.
        backbone: network and its options; its last two stages must have stride 16.
        skips: maps of the encoder's stages go to the decoder.
        decoder_width: factor on the decoder's channels.
        regularizer: keywords of ``Method``.
    """

    paper: ClassVar[str] = (
        "Jin et al., Semantics-Aligned Representation Learning for Person Re-identification, "
        "AAAI 2020, arXiv 1905.13143 (SAN-PG)"
    )
    needs = frozenset({Prior.TEXTURE})
    recipe: ClassVar[Mapping[str, Any]] = {
        "preprocess.mean": [0.5, 0.5, 0.5],
        "preprocess.std": [0.5, 0.5, 0.5],
        "augment.flip": 0.0,
        "augment.erase": 0.0,
        "sampler.kind": "shuffle",
        "sampler.people": 16,
        "sampler.images": 4,
        "optimizer.name": "adam",
        "optimizer.lr": 1e-4,
        "optimizer.betas": [0.5, 0.999],
        "optimizer.weight_decay": 0.0,
        "schedule.epochs": 80,
        "schedule.kind": "constant",
        "schedule.warmup": "none",
    }

    def __init__(
        self,
        num_classes: int,  # noqa: ARG002
        *,
        backbone: BackboneSettings = BackboneSettings("resnet50", last_stride=1),  # noqa: B008
        skips: bool = True,
        decoder_width: float = 1.0,
        **regularizer: Any,
    ) -> None:
        super().__init__(**regularizer)
        self.backbone = backbone.build()
        self.dim = self.backbone.channels[-1]
        self.decoder = TextureDecoder(
            self.backbone.channels, self.backbone.strides, width=decoder_width, skips=skips
        )

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [B, dim] of pictures [B, 3, H, W]: the encoder's last map, pooled."""
        return unit(layers.global_avg_pool(self.backbone(images)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_Rec."""
        decoded = self._decode(batch.images)
        return {"texture": texture_loss(decoded.texture, batch.require(Prior.TEXTURE))}

    def predict(self, images: Tensor) -> Tensor:
        """Textures [B, 3, T, T] in [-1, 1] of pictures [B, 3, H, W], T being H."""
        return self._decode(images).texture.float().clamp(-1, 1)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The painted textures."""
        return {"texture": self.predict(images) / 2 + 0.5}

    def _decode(self, images: Tensor) -> Decoded:
        decoded: Decoded = self.decoder(self.backbone.stages(images))
        return decoded
