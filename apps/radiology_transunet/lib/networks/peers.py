"""Networks of MONAI behind this house's interface: for comparison, or because somebody prefers one.

MONAI is imported where a network is made, and nowhere else: the import takes seconds. Nothing of a call is kept on a
module: inference asks one network from many threads.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from math import gcd
from types import MappingProxyType
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every torch user reads at once)

from lib.core.errors import InvalidSettings
from lib.networks.config import NetworkConfig, config_stride
from lib.networks.network import Network, require_sides
from lib.networks.sizes import SIZES_OF_PEERS, PeerSize
from lib.networks.topology import plan_kernels

SLICE_SIDES = (224, 224)
"""Rows and columns for which UNETR's position embedding is made where no patch says more."""

UNETR_SKIPS = (3, 6, 9)
"""Blocks of UNETR whose tokens become skips, counted from 0, as MONAI takes them."""

_deepest: ContextVar[list[Tensor] | None] = ContextVar("deepest", default=None)


def build_peer(config: NetworkConfig, classes: int) -> Network:
    """An untrained network of MONAI.

    The planned ones ("dynunet", "unet", "attentionunet") take strides and channels from the config. "segresnet",
    "swinunetr" and "unetr" have strides of their own and double their channels from stage to stage: they take the
    first of the config's.

    Args:
        config: which one; with a patch it has three dimensions, else two and slices as channels.
        classes: labels and background.

    Raises:
        InvalidSettings: channels or strides that the network cannot have.
    """
    return MAKERS[config.kind](config, classes)


class Peer(Network):
    """Any network whose forward gives logits.

    Args:
        module: of MONAI.
        deepest: the part of it whose result are the deepest features (B, C, ...).
        multiples: of which the sides of an image must be multiples.
    """

    def __init__(self, module: nn.Module, deepest: nn.Module, multiples: tuple[int, ...]) -> None:
        super().__init__()
        self.module = module
        self.multiples = multiples
        deepest.register_forward_hook(_notice)

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at full size, and the mean (B, C) of the deepest features."""
        noticed: list[Tensor] = []
        before = _deepest.set(noticed)  # a context variable: other threads have their own
        try:
            logits = self(images)
        finally:
            _deepest.reset(before)
        return logits, noticed[0].flatten(2).mean(dim=2)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits at full size."""
        require_sides(images, self.multiples)
        logits: Tensor = self.module(images)
        return logits


class DynUNetPeer(Network):
    """The blocks of MONAI's DynUNet, which is nnU-Net's network, with deep supervision at each level's own size.

    MONAI's own forward keeps the supervised outputs on the module and enlarges each to the full size.

    Args:
        module: a DynUNet.
        multiples: of which the sides of an image must be multiples.
        deep_supervision: whether coarser levels get heads: all but the two coarsest, as in nnU-Net.
    """

    def __init__(self, module: Any, multiples: tuple[int, ...], deep_supervision: bool) -> None:
        super().__init__()
        self.multiples = multiples
        self.down = nn.ModuleList([module.input_block, *module.downsamples, module.bottleneck])
        self.up = module.upsamples
        self.head = module.output_block
        supervised = range(1, len(self.up) - 1) if deep_supervision else ()
        self.coarse_heads = nn.ModuleList(module.get_output_block(level) for level in supervised)
        self.coarse_heads.apply(module.initialize_weights)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The features of the upsampling path, the deepest first."""
        require_sides(images, self.multiples)
        stages = [images]
        for block in self.down:
            stages.append(block(stages[-1]))
        levels = [stages.pop()]
        for block in self.up:
            levels.append(block(levels[-1], stages.pop()))
        return levels

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at full size, and the mean (B, C) of the deepest features."""
        levels = self.levels(images)
        return self.head(levels[-1]), levels[0].flatten(2).mean(dim=2)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits at full size."""
        return self.segment(images)[0]

    def supervised(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits at full size, then those of the coarser levels, fine to coarse."""
        fine_first = self.levels(images)[::-1]
        coarse = [head(level) for head, level in zip(self.coarse_heads, fine_first[1:], strict=False)]
        return (self.head(fine_first[0]), *coarse)


class UnetrPeer(Network):
    """MONAI's UNETR for any image that its tokens divide: the position embedding is interpolated.

    Args:
        module: a UNETR.
        multiples: sides of a token.
    """

    def __init__(self, module: Any, multiples: tuple[int, ...]) -> None:
        super().__init__()
        self.module = module
        self.multiples = multiples
        for block in module.vit.blocks:
            block.norm_cross_attn = nn.Identity()  # MONAI makes this norm for an attention that UNETR does not have

    def tokens(self, images: Tensor) -> list[Tensor]:
        """The tokens after each block as features (B, D, ...), and at the end the normed ones."""
        vit = self.module.vit
        features = vit.patch_embedding.patch_embeddings(images)  # (B, D, h, w) or (B, D, s, h, w)
        grid = features.shape[2:]
        positions = _positions(vit.patch_embedding.position_embeddings, self.module.feat_size, tuple(grid))
        tokens = vit.patch_embedding.dropout(rearrange(features, "b d ... -> b (...) d") + positions)
        found = []
        for block in vit.blocks:
            tokens = block(tokens)
            found.append(tokens)
        found.append(vit.norm(tokens))
        return [rearrange(t, "b n d -> b d n").unflatten(2, grid) for t in found]

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at full size, and the mean token (B, D)."""
        require_sides(images, self.multiples)
        unetr, tokens = self.module, self.tokens(images)
        fine, middle, coarse = UNETR_SKIPS
        features = unetr.decoder5(tokens[-1], unetr.encoder4(tokens[coarse]))
        features = unetr.decoder4(features, unetr.encoder3(tokens[middle]))
        features = unetr.decoder3(features, unetr.encoder2(tokens[fine]))
        features = unetr.decoder2(features, unetr.encoder1(images))
        return unetr.out(features), tokens[-1].flatten(2).mean(dim=2)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits at full size."""
        return self.segment(images)[0]


def _notice(_: nn.Module, __: object, features: Tensor) -> None:
    """Hand the deepest features to who asked for them in this context."""
    asked = _deepest.get()
    if asked is not None:
        asked.append(features)


def _positions(stored: Tensor, grid: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """Position embedding (1, N, D) of a grid, linear between its positions, for another grid."""
    if grid == wanted:
        return stored
    planes = rearrange(stored, "one n d -> one d n").unflatten(2, grid)
    mode = "trilinear" if len(grid) == 3 else "bilinear"
    resized = F.interpolate(planes, size=[*wanted], mode=mode, align_corners=False)
    positions: Tensor = rearrange(resized, "one d ... -> one (...) d")
    return positions


def _sides(config: NetworkConfig, triple: tuple[int, int, int]) -> tuple[int, ...]:
    """Of a triple for (slices, rows, columns) what the network's dimensions need."""
    return triple if config.of_patches else triple[1:]


def _common(config: NetworkConfig, classes: int) -> dict[str, Any]:
    """What every network of MONAI wants to know."""
    return {
        "spatial_dims": 3 if config.of_patches else 2,
        "in_channels": config.in_channels,
        "out_channels": classes,
    }


def _planned(config: NetworkConfig) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Strides of each stage after the first, and channels of each stage."""
    strides = tuple(_sides(config, stride) for stride in config.planned_strides)
    if len(strides) < 2:
        raise InvalidSettings(
            f"network.kind {config.kind} needs a patch that can be halved twice, got {config.patch} with the strides "
            f"{strides}"
        )
    channels = config.channels or _size(config).channels(len(strides) + 1)
    if len(channels) != len(strides) + 1:
        raise InvalidSettings(
            f"network.channels of {config.kind} must be {len(strides) + 1} numbers for {len(strides)} strides, "
            f"got {channels}"
        )
    return strides, channels


def _size(config: NetworkConfig) -> PeerSize:
    return SIZES_OF_PEERS[config.size]


def _multiples(config: NetworkConfig) -> tuple[int, ...]:
    return _sides(config, config_stride(config))


def _dynunet(config: NetworkConfig, classes: int) -> Network:
    """nnU-Net's network; it has no dropout."""
    from monai.networks.nets.dynunet import DynUNet

    strides, channels = _planned(config)
    kernels = plan_kernels(config.planned_strides) if config.of_patches else ((3, 3, 3),) * len(channels)
    module = DynUNet(
        **_common(config, classes),
        kernel_size=[_sides(config, kernel) for kernel in kernels],
        strides=[(1,) * len(strides[0]), *strides],
        upsample_kernel_size=strides,
        filters=channels,
    )
    return DynUNetPeer(module, _multiples(config), config.deep_supervision)


def _unet(config: NetworkConfig, classes: int) -> Network:
    from monai.networks.nets.unet import UNet

    strides, channels = _planned(config)
    module = UNet(
        **_common(config, classes), channels=channels, strides=strides, num_res_units=2, dropout=config.dropout
    )
    deepest = module.model
    while type(deepest) is nn.Sequential:  # down, skip connection around the rest, up
        deepest = deepest[1].submodule
    return Peer(module, deepest, _multiples(config))


def _attentionunet(config: NetworkConfig, classes: int) -> Network:
    from monai.networks.nets.attentionunet import AttentionUnet

    strides, channels = _planned(config)
    module = AttentionUnet(**_common(config, classes), channels=channels, strides=strides, dropout=config.dropout)
    layer = module.model[1]
    while type(layer.submodule) is nn.Sequential:  # a stage, then the attention layer below it
        layer = layer.submodule[1]
    return Peer(module, layer.submodule, _multiples(config))


def _segresnet(config: NetworkConfig, classes: int) -> Network:
    from monai.networks.nets.segresnet import SegResNet

    first = config.channels[0] if config.channels else _size(config).first_channels
    module = SegResNet(
        **_common(config, classes),
        init_filters=first,
        norm=("GROUP", {"num_groups": gcd(8, first)}),
        dropout_prob=config.dropout or None,
    )
    return Peer(module, module.down_layers[-1], _multiples(config))


def _swinunetr(config: NetworkConfig, classes: int) -> Network:
    from monai.networks.nets.swin_unetr import SwinUNETR

    features = config.channels[0] if config.channels else _size(config).features
    if features % 12:
        raise InvalidSettings(f"the first of network.channels of swinunetr must be a multiple of 12, got {features}")
    module = SwinUNETR(**_common(config, classes), feature_size=features, drop_rate=config.dropout)
    return Peer(module, module.encoder10, _multiples(config))


def _unetr(config: NetworkConfig, classes: int) -> Network:
    from monai.networks.nets.unetr import UNETR

    size = _size(config)
    module = UNETR(
        **_common(config, classes),
        img_size=config.patch or SLICE_SIDES,
        feature_size=config.channels[0] if config.channels else size.features // 3,
        hidden_size=size.hidden,
        mlp_dim=size.mlp,
        num_heads=size.heads,
        dropout_rate=config.dropout,
    )
    return UnetrPeer(module, _multiples(config))


MAKERS: Mapping[str, Callable[[NetworkConfig, int], Network]] = MappingProxyType(
    {
        "dynunet": _dynunet,
        "unet": _unet,
        "attentionunet": _attentionunet,
        "segresnet": _segresnet,
        "swinunetr": _swinunetr,
        "unetr": _unetr,
    }
)
"""What makes each kind."""
