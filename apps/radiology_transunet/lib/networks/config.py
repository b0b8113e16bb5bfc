"""What a task file may say about the network, and what each size means."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from lib.core.errors import InvalidSettings
from lib.networks.sizes import SIZES_3D, SIZES_OF_PEERS, Architecture3d, PeerSize
from lib.networks.topology import Triple, plan_strides, round_patch, side_multiples, spaced_strides

MAX_CONTEXT_SLICES = 3

Kind = Literal["transunet", "transunet3d", "dynunet", "unet", "segresnet", "swinunetr", "unetr", "attentionunet"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of one size, in the order in which an image meets them.

    Attributes:
        stem_channels: of the 7x7 convolution that halves the image; 0 = no stem, a pure vision transformer.
        stage_channels: output of each residual stage; the first follows a pooling to 1/4, each further one halves.
            Empty without a stem.
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
        patch: positions of the stem's features, or pixels without a stem, along one side of a token.
        pool_padding: pixels around the stem's pooling; 0 is the published one, 1 sees the last row and column as well.
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
    patch: int = 1
    pool_padding: int = 0

    @property
    def stride(self) -> int:
        """Pixels of the image along one side of a token; image sizes must be multiples of it."""
        halvings = len(self.stage_channels) + 1 if self.stage_channels else 0
        return int(self.patch * 2**halvings)


_BASE = Architecture(  # R50-ViT-B/16 of Chen et al., arXiv:2102.04306
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
)
_TINY = Architecture(  # trains on two CPU cores in minutes
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
    pool_padding=1,
)
_SMALL = replace(  # 3.4 million parameters, for CPUs with more time
    _TINY,
    stem_channels=32,
    stage_channels=(64, 128),
    stage_blocks=(2, 3),
    norm_groups=8,
    hidden=192,
    layers=6,
    heads=6,
    mlp=768,
    decoder_channels=(128, 96, 64),
)
_LARGE = replace(_BASE, hidden=1024, layers=24, heads=16, mlp=4096)  # R50-ViT-L/16
_TI = replace(  # the encoder of ViT-Ti/16, Steiner et al., arXiv:2106.10270
    _BASE, hidden=192, heads=3, mlp=768, decoder_channels=(192, 128, 64, 32, 16)
)


def _without_stem(sizes: Architecture) -> Architecture:
    """The pure vision transformer: tokens are patches of 16 x 16 pixels."""
    return replace(sizes, stem_channels=0, stage_channels=(), stage_blocks=(), patch=16)


SIZES: Mapping[str, Architecture] = MappingProxyType(
    {
        "tiny": _TINY,
        "small": _SMALL,
        "base": _BASE,
        "large": _LARGE,
        "vit-tiny": _without_stem(_TI),
        "vit-b16": _without_stem(_BASE),
        "vit-l16": _without_stem(_LARGE),
    }
)
"""Of "transunet"."""

PLANNED_PEERS = ("dynunet", "unet", "attentionunet")
FIXED_PEERS: Mapping[str, int] = MappingProxyType({"segresnet": 8, "swinunetr": 32, "unetr": 16})
"""Peers with strides of their own: what every side must be a multiple of."""

PARTS = ("both", "encoder", "decoder")
DEEPLY_SUPERVISED = ("transunet3d", "dynunet")
"""Kinds with heads on coarser levels, unless the config says no."""

SIZES_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "transunet": tuple(SIZES),
        "transunet3d": tuple(SIZES_3D),
        **dict.fromkeys((*PLANNED_PEERS, *FIXED_PEERS), tuple(SIZES_OF_PEERS)),
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
        strides: of each stage of a planned network of patches after the first, per axis; empty = planned from `patch`,
            in a task also from its spacing (`with_strides`). Planned are "transunet3d", "dynunet", "unet" and
            "attentionunet"; the others have strides of their own.
        channels: of each stage of a planned network; empty = those of the size. One more than there are strides; a
            folded size of "transunet3d" has no stage at the full resolution: as many as there are strides. Of the
            first stage alone for a peer with strides of its own; not for "transunet".
        deep_supervision: whether training also looks at the coarser outputs, where the kind has them: "transunet3d"
            and "dynunet".
        parts: of transunet3d: which transformers it has, "both", "encoder" or "decoder".

    Raises:
        InvalidSettings: a kind or size that does not exist, a number out of range, a patch that the kind cannot take,
            strides, channels or parts that it does not have.
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
        if self.parts not in PARTS or (self.parts != "both" and self.kind != "transunet3d"):
            known = f"one of {', '.join(PARTS)}" if self.kind == "transunet3d" else "both"
            raise InvalidSettings(f"network.parts of {self.kind} must be {known}, got {self.parts!r}")
        self._check_stages()
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
        """Rows and columns of what a network of slices sees must be multiples of this."""
        return config_stride(self)[1]

    @property
    def planned_strides(self) -> tuple[Triple, ...]:
        """Of each stage of a planned network after the first; (1, 2, 2) for each halving of slices."""
        if self.patch is None:
            halvings = len(self.channels) - 1 if self.channels else SIZES_OF_PEERS[self.size].halvings
            return ((1, 2, 2),) * halvings
        return self.strides or plan_strides(self.patch)

    def with_strides(self, spacing_mm: float | tuple[float, float, float] | None) -> "NetworkConfig":
        """With the strides that patch and spacing of all three axes give, where they are left out."""
        if self.patch is None or self.strides or self.kind in FIXED_PEERS or not isinstance(spacing_mm, tuple):
            return self
        strides = spaced_strides(self.patch, spacing_mm, same_depth=bool(self.channels))
        return replace(self, strides=strides) if strides else self

    @property
    def numbers(self) -> Architecture | Architecture3d | PeerSize:
        """What the size means for this kind."""
        if self.kind == "transunet":
            return self.architecture
        return SIZES_3D[self.size] if self.kind == "transunet3d" else SIZES_OF_PEERS[self.size]

    def _check_stages(self) -> None:
        object.__setattr__(self, "strides", tuple(tuple(stride) for stride in self.strides))
        object.__setattr__(self, "channels", tuple(self.channels))
        if any(len(stride) != 3 or not {*stride} <= {1, 2} for stride in self.strides):
            raise InvalidSettings(f"network.strides must be triples of 1 and 2, got {self.strides}")
        if self.channels and min(self.channels) < 1:
            raise InvalidSettings(f"network.channels must be positive numbers, got {self.channels}")
        if self.strides and self.patch is None:
            raise InvalidSettings(f"network.strides are for networks of patches; name a patch, got {self.strides}")
        if self.strides and self.kind in FIXED_PEERS:
            raise InvalidSettings(f"network.strides must be left out with {self.kind}, got {self.strides}")
        if self.channels and self.kind == "transunet":
            raise InvalidSettings(
                f"network.channels must be left out with transunet, got {self.channels}; see its sizes"
            )
        if len(self.channels) > 1 and self.kind in FIXED_PEERS:
            raise InvalidSettings(
                f"network.channels of {self.kind} must be one number, the further stages follow from it, "
                f"got {self.channels}"
            )

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
        require_multiples(self, self.patch)


def config_stride(config: NetworkConfig) -> Triple:
    """What (slices, rows, columns) of an image must be multiples of for this network."""
    if config.kind == "transunet":
        return (1, config.architecture.stride, config.architecture.stride)
    if config.kind in FIXED_PEERS:
        side = FIXED_PEERS[config.kind]
        return (side if config.of_patches else 1, side, side)
    return side_multiples(config.planned_strides)


def require_multiples(config: NetworkConfig, patch: Triple) -> None:
    """Raise InvalidSettings unless the network can take the patch, with one that it can take."""
    multiples = config_stride(config)
    if any(side % multiple for side, multiple in zip(patch, multiples, strict=True)):
        raise InvalidSettings(
            f"network.patch of {config.kind} must have multiples of {multiples} as its sides, got {patch}; "
            f"take {round_patch(patch, (multiples,))}"
        )
    if patch == multiples and max(multiples) > 1:
        raise InvalidSettings(
            f"network.patch of {config.kind} must be larger than {multiples} on one axis at least, got {patch}"
        )
