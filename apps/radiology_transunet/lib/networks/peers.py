"""Networks of MONAI behind this house's interface: for comparison, or because somebody prefers one.

MONAI is imported where a network is made, and nowhere else: the import takes seconds.
"""

from collections.abc import Callable, Mapping
from math import gcd
from types import MappingProxyType
from typing import Any

from torch import nn

from lib.core.errors import InvalidSettings
from lib.networks.config import NetworkConfig, config_stride
from lib.networks.network import Network
from lib.networks.peer_networks import DynUNetPeer, Peer, UnetrPeer
from lib.networks.sizes import SIZES_OF_PEERS, PeerSize
from lib.networks.topology import plan_kernels

SLICE_SIDES = (224, 224)
"""Rows and columns for which UNETR's position embedding is made where no patch says more."""


def build_peer(config: NetworkConfig, classes: int) -> Network:
    """An untrained network of MONAI.

    The planned ones ("dynunet", "unet", "attentionunet") take strides and channels from the config. "segresnet",
    "swinunetr" and "unetr" have strides of their own and double their channels from stage to stage: they take those of
    the first.

    Args:
        config: which one; with a patch it has three dimensions, else two and slices as channels.
        classes: labels and background.

    Raises:
        InvalidSettings: channels or strides that the network cannot have.
    """
    return MAKERS[config.kind](config, classes)


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
        patch = f"a patch that can be halved twice, got {config.patch} with the strides {strides}"
        needed = patch if config.of_patches else f"network.channels of three stages or more, got {config.channels}"
        raise InvalidSettings(f"network.kind {config.kind} needs {needed}")
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
        raise InvalidSettings(f"network.channels of swinunetr must be a multiple of 12, got {features}")
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
