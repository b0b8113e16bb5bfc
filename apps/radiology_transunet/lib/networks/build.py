"""A task file names a network; this makes it."""

from lib.networks.config import NetworkConfig
from lib.networks.network import Network


def build(config: NetworkConfig, classes: int) -> Network:
    """An untrained network.

    Args:
        config: which one.
        classes: labels and background.
    """
    if config.kind == "transunet":
        from lib.networks.transunet import TransUNet

        return TransUNet(config, config.in_channels, classes)
    if config.kind == "transunet3d":
        from lib.networks.transunet3d import TransUNet3d

        return TransUNet3d(config, classes)
    from lib.networks.peers import build_peer

    return build_peer(config, classes)
