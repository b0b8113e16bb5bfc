"""What a task file may say about the network, and what each size means."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lib.core.errors import InvalidSettings

MAX_CONTEXT_SLICES = 3


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of one size, in the order in which an image meets them.

    Attributes:
        stem_channels: of the 7x7 convolution that halves the image.
        stage_channels: output of each residual stage; the first follows a pooling to 1/4, each further one halves.
        stage_blocks: residual blocks of each stage.
        norm_groups: groups of every group norm of the stem.
        hidden: width of a token.
        layers: transformer blocks.
        heads: attention heads of a block.
        mlp: width inside the MLP of a block.
        position_grid: (rows, columns) of tokens for which the position embedding is stored.
        decoder_channels: output of the first convolution on the tokens, then of each step that doubles the size; what
            the steps leave to the full size, the head makes at once.
        decoder_norm: normalisation of the decoder; "batch" is the published one, "group" does not depend on the batch.
    """

    stem_channels: int
    stage_channels: tuple[int, ...]
    stage_blocks: tuple[int, ...]
    norm_groups: int
    hidden: int
    layers: int
    heads: int
    mlp: int
    position_grid: tuple[int, int]
    decoder_channels: tuple[int, ...]
    decoder_norm: Literal["batch", "group"]

    @property
    def stride(self) -> int:
        """Pixels of the image along one side of a token; image sizes must be multiples of it."""
        return int(2 ** (len(self.stage_channels) + 1))


SIZES: Mapping[str, Architecture] = MappingProxyType(
    {
        "base": Architecture(  # R50-ViT-B/16 of Chen et al., arXiv:2102.04306
            stem_channels=64,
            stage_channels=(256, 512, 1024),
            stage_blocks=(3, 4, 9),
            norm_groups=32,
            hidden=768,
            layers=12,
            heads=12,
            mlp=3072,
            position_grid=(14, 14),
            decoder_channels=(512, 256, 128, 64, 16),
            decoder_norm="batch",
        ),
        "tiny": Architecture(  # trains on two CPU cores in minutes
            stem_channels=16,
            stage_channels=(32, 64),
            stage_blocks=(1, 2),
            norm_groups=4,
            hidden=96,
            layers=3,
            heads=4,
            mlp=192,
            position_grid=(16, 16),
            decoder_channels=(64, 48, 32),
            decoder_norm="group",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The `network` block of a task file.

    Attributes:
        size: "tiny" for CPUs, "base" for the network of the paper.
        context_slices: neighbour slices on each side that enter as channels; 0 = 2D, 1 = 2.5D with three slices.
        dropout: share of token features dropped in training.

    Raises:
        InvalidSettings: a size that does not exist, a number out of range.
    """

    size: str = "tiny"
    context_slices: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InvalidSettings(f"network.size must be one of {', '.join(SIZES)}, got {self.size!r}")
        if not 0 <= self.context_slices <= MAX_CONTEXT_SLICES:
            raise InvalidSettings(
                f"network.context_slices must be 0 to {MAX_CONTEXT_SLICES}, got {self.context_slices}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidSettings(f"network.dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def architecture(self) -> Architecture:
        """The numbers of this size."""
        return SIZES[self.size]

    @property
    def in_channels(self) -> int:
        """Slices that the network sees at once."""
        return 1 + 2 * self.context_slices

    @property
    def stride(self) -> int:
        """Image sizes must be multiples of this."""
        return self.architecture.stride
