"""What a task file may say about the network, and what each size means."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lib.core.errors import InvalidSettings

MAX_CONTEXT_SLICES = 3

Kind = Literal["transunet", "transunet3d", "dynunet", "unet", "segresnet", "swinunetr", "unetr", "attentionunet"]


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

PEER_SIZES = ("tiny", "small", "base")
SIZES_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "transunet": tuple(SIZES),
        "transunet3d": ("tiny", "small", "base"),
        **dict.fromkeys(("dynunet", "unet", "segresnet", "swinunetr", "unetr", "attentionunet"), PEER_SIZES),
    }
)
"""Names of sizes of each kind."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The `network` block of a task file.

    Attributes:
        kind: "transunet" (slices), "transunet3d" (patches), or a peer from MONAI: "dynunet", "unet", "segresnet",
            "swinunetr", "unetr", "attentionunet"; a peer is a network of slices or of patches, as `patch` says.
        size: a name among those of the kind; "tiny" is for CPUs.
        context_slices: neighbour slices on each side that enter a network of slices as channels; 0 = 2D, 1 = 2.5D with
            three slices. A network of patches has no use for it.
        dropout: share of features dropped in training, where the kind has dropout.
        patch: (slices, rows, columns) of what a network of patches sees at once, in voxels after resampling;
            None = a network of slices.
        strides: of each stage of a planned network of patches after the first, per axis; empty = planned from `patch`.
        channels: of each stage of a planned network; empty = those of the size.
        deep_supervision: whether training also looks at the coarser outputs, where the kind has them.
        parts: of transunet3d: which transformers it has, "both", "encoder" or "decoder".

    Raises:
        InvalidSettings: a kind or size that does not exist, a number out of range, a patch that the kind cannot take.
    """

    kind: Kind = "transunet"
    size: str = "tiny"
    context_slices: int = 1
    dropout: float = 0.1
    patch: tuple[int, int, int] | None = None
    strides: tuple[tuple[int, int, int], ...] = ()
    channels: tuple[int, ...] = ()
    deep_supervision: bool = True
    parts: Literal["both", "encoder", "decoder"] = "both"

    def __post_init__(self) -> None:
        if self.kind not in SIZES_OF:
            raise InvalidSettings(f"network.kind must be one of {', '.join(SIZES_OF)}, got {self.kind!r}")
        if self.size not in SIZES_OF[self.kind]:
            known = ", ".join(SIZES_OF[self.kind])
            raise InvalidSettings(f"network.size of {self.kind} must be one of {known}, got {self.size!r}")
        if not 0 <= self.context_slices <= MAX_CONTEXT_SLICES:
            raise InvalidSettings(
                f"network.context_slices must be 0 to {MAX_CONTEXT_SLICES}, got {self.context_slices}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidSettings(f"network.dropout must be at least 0 and below 1, got {self.dropout}")
        self._check_patch()

    @property
    def of_patches(self) -> bool:
        """Whether the network sees patches (B, 1, S, H, W) and not slices (B, in, H, W)."""
        return self.patch is not None

    @property
    def architecture(self) -> Architecture:
        """The numbers of this size of "transunet"."""
        return SIZES[self.size]

    @property
    def in_channels(self) -> int:
        """Slices that a network of slices sees at once; 1 for a network of patches."""
        return 1 if self.of_patches else 1 + 2 * self.context_slices

    @property
    def stride(self) -> int:
        """Rows and columns of what "transunet" sees must be multiples of this."""
        return self.architecture.stride

    def _check_patch(self) -> None:
        if self.patch is None:
            if self.kind == "transunet3d":
                raise InvalidSettings("network.patch of transunet3d must be (slices, rows, columns), got none")
            return
        object.__setattr__(self, "patch", tuple(self.patch))
        if self.kind == "transunet":
            raise InvalidSettings(f"network.patch must be left out with transunet, got {self.patch}; see transunet3d")
        if len(self.patch) != 3 or min(self.patch) < 1:
            raise InvalidSettings(f"network.patch must be three positive numbers of voxels, got {self.patch}")
