"""What a task file may say about the network, and what each size means."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from lib.core.errors import InvalidSettings
from lib.networks.sizes import SIZES_3D, SIZES_OF_PEERS, Architecture3d, PeerSize
from lib.networks.topology import Triple, plan_strides, round_patch, side_multiples

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
        """Rows and columns of what a network of slices sees must be multiples of this."""
        return config_stride(self)[1]

    @property
    def planned_strides(self) -> tuple[Triple, ...]:
        """Of each stage of a planned network after the first; (1, 2, 2) for each halving of slices."""
        if self.patch is None:
            halvings = len(self.channels) - 1 if self.channels else SIZES_OF_PEERS[self.size].halvings
            return ((1, 2, 2),) * halvings
        return self.strides or plan_strides(self.patch)

    @property
    def numbers(self) -> Architecture | Architecture3d | PeerSize:
        """What the size means for this kind."""
        if self.kind == "transunet":
            return self.architecture
        return SIZES_3D[self.size] if self.kind == "transunet3d" else SIZES_OF_PEERS[self.size]

    def _check_patch(self) -> None:
        object.__setattr__(self, "strides", tuple(tuple(stride) for stride in self.strides))
        object.__setattr__(self, "channels", tuple(self.channels))
        if any(len(stride) != 3 or not {*stride} <= {1, 2} for stride in self.strides):
            raise InvalidSettings(f"network.strides must be triples of 1 and 2, got {self.strides}")
        if self.channels and min(self.channels) < 1:
            raise InvalidSettings(f"network.channels must be positive numbers, got {self.channels}")
        if self.patch is None:
            if self.kind == "transunet3d":
                raise InvalidSettings("network.patch of transunet3d must be (slices, rows, columns), got none")
            if self.strides:
                raise InvalidSettings(f"network.strides are for networks of patches; name a patch, got {self.strides}")
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
