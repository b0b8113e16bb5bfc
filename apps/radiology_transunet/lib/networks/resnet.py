"""The convolutional stem of TransUNet: the ResNetV2 of Big Transfer.

Kolesnikov et al., "Big Transfer", arXiv:1912.11370: bottlenecks with group norm (Wu and He, arXiv:1803.08494) and
weight standardisation (Qiao et al., arXiv:1903.10520). Letters in shape comments: B slices of a batch, C channels,
H rows, W columns.
"""

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every torch user reads at once)

from lib.networks.config import Architecture

STANDARDISE_EPS = 1e-5
NORM_EPS = 1e-6


def standardise(weight: Tensor) -> Tensor:
    """Kernels (out, in, rows, columns) with mean 0 and variance 1 over all but the first axis."""
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
    return (weight - mean) * torch.rsqrt(variance + STANDARDISE_EPS)


class StandardisedConv2d(nn.Conv2d):
    """A convolution without bias whose kernels are standardised at each use; "same" padding for odd kernels."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        """Features (B, C, H, W), at 1/stride of the size."""
        return F.conv2d(input, standardise(self.weight), None, self.stride, self.padding)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions around a shortcut; a quarter of the width inside."""

    def __init__(self, channels_in: int, channels_out: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        inside = channels_out // 4
        self.reduce = StandardisedConv2d(channels_in, inside, 1)
        self.reduce_norm = nn.GroupNorm(gcd(groups, inside), inside, NORM_EPS)
        self.mix = StandardisedConv2d(inside, inside, 3, stride)
        self.mix_norm = nn.GroupNorm(gcd(groups, inside), inside, NORM_EPS)
        self.expand = StandardisedConv2d(inside, channels_out, 1)
        self.expand_norm = nn.GroupNorm(gcd(groups, channels_out), channels_out, NORM_EPS)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                StandardisedConv2d(channels_in, channels_out, 1, stride),
                nn.GroupNorm(channels_out, channels_out, 1e-5),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to (B, channels_out, H/stride, W/stride)."""
        inside = F.relu(self.reduce_norm(self.reduce(features)), inplace=True)
        inside = F.relu(self.mix_norm(self.mix(inside)), inplace=True)
        inside = self.expand_norm(self.expand(inside))
        return F.relu(self.shortcut(features) + inside, inplace=True)


class Stem(nn.Module):
    """The convolutional half of the encoder: images to features at 1/2, 1/4, ... 1/stride.

    The published network pools without padding, so its first stage works on planes one row and one column short of a
    quarter; its features are padded with zeros at the end, to the size that the decoder expects, on the way out alone.
    """

    def __init__(self, sizes: Architecture, in_channels: int) -> None:
        super().__init__()
        width = sizes.stem_channels
        self.root = StandardisedConv2d(in_channels, width, 7, stride=2)
        self.root_norm = nn.GroupNorm(gcd(sizes.norm_groups, width), width, NORM_EPS)
        self.pool = nn.MaxPool2d(3, stride=2, padding=sizes.pool_padding)
        self.stages = nn.ModuleList()
        for depth, (channels, blocks) in enumerate(zip(sizes.stage_channels, sizes.stage_blocks, strict=True)):
            stride = 1 if depth == 0 else 2
            first = Bottleneck(width, channels, sizes.norm_groups, stride)
            rest = [Bottleneck(channels, channels, sizes.norm_groups) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            width = channels

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The deepest features (B, C, h, w), and the shallower ones, deepest first, as skips."""
        height, width = images.shape[-2:]
        features = F.relu(self.root_norm(self.root(images)), inplace=True)  # (B, C, H/2, W/2)
        skips = [features]
        features = self.pool(features)  # (B, C, H/4, W/4), or one less a side
        for depth, stage in enumerate(self.stages, start=2):
            features = stage(features)
            skips.insert(0, padded(features, height // 2**depth, width // 2**depth))
        return skips[0], skips[1:]


def padded(features: Tensor, height: int, width: int) -> Tensor:
    """Features (B, C, h, w) with zeros below and to the right up to (B, C, height, width)."""
    missing = (0, width - features.shape[-1], 0, height - features.shape[-2])
    return F.pad(features, missing) if any(missing) else features
