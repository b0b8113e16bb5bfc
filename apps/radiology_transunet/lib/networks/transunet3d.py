"""TransUNet for patches: nnU-Net's convolutions, a transformer on the deepest features, queries that refine the result.

Chen et al., "TransUNet: Rethinking the U-Net architecture design for medical image segmentation through the lens of
transformers", Medical Image Analysis 2024. Read from here: the convolutional path and the transformer encoder are in
encoder3d.py, the transformer decoder is in query_decoder.py.

Letters in shape comments: B patches of a batch, C channels, S, H, W slices, rows, columns; s, h, w those of features.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from lib.core.errors import InvalidSettings
from lib.networks.config import NetworkConfig, config_stride
from lib.networks.encoder3d import NEGATIVE_SLOPE, Decoder3d, Encoder3d, TokenEncoder, fold, unfold
from lib.networks.network import Network, require_sides
from lib.networks.query_decoder import QueryDecoder
from lib.networks.sizes import SIZES_3D
from lib.networks.topology import Triple, plan_kernels

WHOLE: Triple = (1, 1, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """The convolutional path of one network.

    Attributes:
        folded: factor by which the images are folded before the first stage.
        strides: of each stage, the first one's (1, 1, 1) included.
        kernels: of each stage.
        channels: of each stage.
    """

    folded: Triple
    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    channels: tuple[int, ...]

    @classmethod
    def of(cls, config: NetworkConfig) -> "Plan":
        """The plan of a config.

        Raises:
            InvalidSettings: another number of channels than of stages.
        """
        sizes, strides = SIZES_3D[config.size], config.planned_strides
        kernels = plan_kernels(strides)
        folded = strides[0] if sizes.folded and strides else WHOLE
        if folded != WHOLE:
            strides, kernels = strides[1:], kernels[1:]
        channels = config.channels or sizes.channels(len(kernels))
        if len(channels) != len(kernels):
            raise InvalidSettings(
                f"network.channels of transunet3d {config.size} must be {len(kernels)} numbers for the strides "
                f"{config.planned_strides}, got {config.channels}"
            )
        return cls(folded, (WHOLE, *strides), kernels, channels)


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch before the first dropout.

    Attributes:
        features: (B, C, s, h, w) of each stage of the encoder, the finest first; or, without tokens, of each level of
            the decoder, the deepest first.
        tokens: (B, N, D), embedded; None in a network without a transformer encoder.
    """

    features: tuple[Tensor, ...]
    tokens: Tensor | None


class TransUNet3d(Network):
    """Patches (B, 1, S, H, W) to logits (B, classes, S, H, W); the sides are multiples of `multiples`.

    Args:
        config: size, patch, strides and parts.
        classes: labels and background.

    Raises:
        InvalidSettings: no patch, or another number of channels than of stages.
    """

    def __init__(self, config: NetworkConfig, classes: int) -> None:
        super().__init__()
        if config.patch is None:
            raise InvalidSettings("network.patch of transunet3d must be (slices, rows, columns), got none")
        sizes, plan = SIZES_3D[config.size], Plan.of(config)
        self.multiples = config_stride(config)
        self.folded = plan.folded
        subvoxels, widths = prod(plan.folded), plan.channels[::-1]  # widths: deepest first
        self.encoder = Encoder3d(config.in_channels * subvoxels, plan.channels, plan.kernels, plan.strides)
        self.decoder = Decoder3d(plan.channels, plan.kernels, plan.strides[1:], sizes.decoder_convolutions)
        self.apply(initialise)
        self.tokens: TokenEncoder | None = None
        if config.parts in ("both", "encoder"):
            slices, rows, columns = (side // m for side, m in zip(config.patch, self.multiples, strict=True))
            self.tokens = TokenEncoder(sizes, widths[0], (slices, rows, columns), config.dropout)
        self.head: nn.Conv3d | None = None
        self.queries: QueryDecoder | None = None
        if config.parts in ("both", "decoder"):
            self.looked_at = min(sizes.rounds, len(widths))
            seen = widths[: self.looked_at]
            self.queries = QueryDecoder(sizes, classes, seen, widths[-1], subvoxels, config.dropout)
        else:
            side = 1 if subvoxels == 1 else 3  # sub-voxels learn faster when they see their neighbours
            self.head = nn.Conv3d(widths[-1], classes * subvoxels, side, padding=side // 2)
        coarser = widths[1:] if plan.folded != WHOLE else widths[1:-1]
        self.coarse_heads = nn.ModuleList(
            nn.Conv3d(width, classes, 1) for width in (coarser if config.deep_supervision else ())
        )
        self.deep_supervision = config.deep_supervision

    def features(self, images: Tensor) -> list[Tensor]:
        """Patches (B, 1, S, H, W) to the features (B, C, s, h, w) of each level, the deepest first.

        Raises:
            InvalidVolume: a side that is no multiple of the strides, or a single position at the deepest level.
        """
        return self._levels(self.before_dropout(images))

    def before_dropout(self, images: Tensor) -> Begun:
        """The convolutional encoder and the embedding; without tokens all features: the queries alone have dropout."""
        require_sides(images, self.multiples)
        stages = self.encoder(fold(images, self.folded))
        if self.tokens is not None:
            return Begun(tuple(stages), self.tokens.embed(stages[-1]))
        return Begun(tuple(self.decoder(stages)), None)

    def after_dropout(self, begun: Begun) -> tuple[Tensor, Tensor]:
        """The rest: logits (B, classes, S, H, W) and embedding (B, C)."""
        levels = self._levels(begun)
        return self.predict(levels)[0], levels[0].mean(dim=(2, 3, 4))

    def _levels(self, begun: Begun) -> list[Tensor]:
        """The features of each level, the deepest first."""
        if self.tokens is None or begun.tokens is None:
            return list(begun.features)
        *finer, deepest = begun.features
        levels: list[Tensor] = self.decoder([*finer, self.tokens.mix(deepest, begun.tokens)])
        return levels

    def predict(self, levels: list[Tensor]) -> list[Tensor]:
        """Logits (B, classes, S, H, W) of the features of each level; then, if any, those of the earlier rounds."""
        if self.queries is None:
            assert self.head is not None
            return [unfold(self.head(levels[-1]), self.folded)]
        final, *earlier = self.queries(levels[: self.looked_at], levels[-1])
        return [unfold(final, self.folded), *earlier]

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes, S, H, W) of patches (B, 1, S, H, W), and the mean (B, C) of the deepest features."""
        return self.after_dropout(self.before_dropout(images))

    def forward(self, images: Tensor) -> Tensor:
        """Patches (B, 1, S, H, W) to logits (B, classes, S, H, W)."""
        return self.predict(self.features(images))[0]

    def supervised(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits at full size; those of the coarser levels, fine to coarse; those of the earlier rounds, last first.

        Without deep supervision the first alone.
        """
        levels = self.features(images)
        final, *earlier = self.predict(levels)
        if not self.deep_supervision:
            return (final,)
        coarse = [head(level) for head, level in zip(self.coarse_heads, levels[1:], strict=False)]
        return (final, *reversed(coarse), *earlier)


def initialise(module: nn.Module) -> None:
    """He's initialisation for leaky ReLU, as nnU-Net does."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
