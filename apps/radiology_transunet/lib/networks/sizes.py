"""What each size of the 3D TransUNet and of MONAI's networks means."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Architecture3d:
    """The numbers of one size of the 3D TransUNet, in the order in which a patch meets them.

    Attributes:
        folded: whether the first stride folds voxels into channels and the last step unfolds them (sub-pixel
            convolution, Shi et al., arXiv:1609.05158), so that no convolution runs at the full resolution, which costs
            most of the time on CPUs. False = nnU-Net's stages.
        first_channels: of the first stage; each further one has twice as many.
        most_channels: of any stage.
        decoder_convolutions: of each stage of the upsampling path.
        hidden: width of a token of the transformer encoder.
        layers: its blocks.
        heads: its attention heads.
        mlp: width inside the MLP of its blocks.
        queries: learned queries of each class; a voxel belongs to a class as far as any of them says so.
        query_hidden: width of a query, a multiple of 6 and of `heads`.
        query_mlp: width inside the MLP of the transformer decoder.
        rounds: refinements by the transformer decoder, each on finer features as long as there are any.
        mask_channels: features of a voxel that a query is compared with.
    """

    folded: bool
    first_channels: int
    most_channels: int
    decoder_convolutions: int
    hidden: int
    layers: int
    heads: int
    mlp: int
    queries: int
    query_hidden: int
    query_mlp: int
    rounds: int
    mask_channels: int

    def channels(self, stages: int) -> tuple[int, ...]:
        """Of each stage, the finest first."""
        return tuple(min(self.first_channels * 2**stage, self.most_channels) for stage in range(stages))


SIZES_3D: Mapping[str, Architecture3d] = MappingProxyType(
    {
        "tiny": Architecture3d(
            folded=True,
            first_channels=16,
            most_channels=128,
            decoder_convolutions=1,
            hidden=72,
            layers=2,
            heads=4,
            mlp=144,
            queries=1,
            query_hidden=48,
            query_mlp=96,
            rounds=3,
            mask_channels=8,
        ),
        "small": Architecture3d(  # trains on two CPU cores in minutes
            folded=True,
            first_channels=32,
            most_channels=256,
            decoder_convolutions=2,
            hidden=144,
            layers=4,
            heads=4,
            mlp=432,
            queries=1,
            query_hidden=96,
            query_mlp=192,
            rounds=3,
            mask_channels=16,
        ),
        "medium": Architecture3d(  # for the same cores with more time: stages at the full resolution, as in `base`
            folded=False,
            first_channels=16,
            most_channels=128,
            decoder_convolutions=1,
            hidden=144,
            layers=3,
            heads=4,
            mlp=288,
            queries=1,
            query_hidden=48,
            query_mlp=96,
            rounds=3,
            mask_channels=16,
        ),
        "base": Architecture3d(  # nnU-Net's convolutions; widths of the transformer decoder as published
            folded=False,
            first_channels=32,
            most_channels=320,
            decoder_convolutions=2,
            hidden=384,
            layers=6,
            heads=8,
            mlp=1536,
            queries=4,
            query_hidden=192,
            query_mlp=768,
            rounds=3,
            mask_channels=32,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class PeerSize:
    """One size of MONAI's networks.

    Attributes:
        first_channels: of the first stage of the planned ones (DynUNet, UNet, AttentionUnet) and of SegResNet; each
            further stage has twice as many.
        most_channels: of any stage of the planned ones.
        halvings: of the planned ones where no patch plans them: for slices.
        features: of SwinUNETR's embedding (a multiple of 12) and of UNETR's decoder (a third of it).
        hidden: width of UNETR's tokens.
        mlp: width inside the MLP of UNETR's blocks.
        heads: of UNETR's blocks.
    """

    first_channels: int
    most_channels: int
    halvings: int
    features: int
    hidden: int
    mlp: int
    heads: int

    def channels(self, stages: int) -> tuple[int, ...]:
        """Of each stage of a planned network, the finest first."""
        return tuple(min(self.first_channels * 2**stage, self.most_channels) for stage in range(stages))


SIZES_OF_PEERS: Mapping[str, PeerSize] = MappingProxyType(
    {
        "tiny": PeerSize(first_channels=8, most_channels=128, halvings=3, features=12, hidden=48, mlp=96, heads=4),
        "small": PeerSize(first_channels=16, most_channels=256, halvings=4, features=24, hidden=192, mlp=768, heads=6),
        "base": PeerSize(first_channels=32, most_channels=320, halvings=5, features=48, hidden=768, mlp=3072, heads=12),
    }
)
