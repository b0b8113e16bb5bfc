"""Strides that a task leaves out, from its patch and its spacing."""

from dataclasses import replace

from lib.networks.config import FIXED_PEERS, NetworkConfig
from lib.networks.topology import plan_strides, side_multiples

Spacing = float | tuple[float, float, float] | None


def with_strides(config: NetworkConfig, spacing_mm: Spacing) -> NetworkConfig:
    """The network with the strides that patch and spacing give, where it leaves them out.

    It stays as it is where they are those of cubes anyway; where the spacing is not given for all three axes; and where
    a patch or channels that cubes allow would not be allowed any more.

    Args:
        config: the network.
        spacing_mm: of (slices, rows, columns), of rows and columns alone, or of nothing.
    """
    if config.patch is None or config.strides or config.kind in FIXED_PEERS or not isinstance(spacing_mm, tuple):
        return config
    cubes, strides = plan_strides(config.patch), plan_strides(config.patch, spacing_mm)
    multiples = side_multiples(strides)
    divides = all(side % multiple == 0 for side, multiple in zip(config.patch, multiples, strict=True))
    fewer = config.channels and len(strides) != len(cubes)
    if strides == cubes or not divides or config.patch == multiples or fewer:
        return config
    return replace(config, strides=strides)
