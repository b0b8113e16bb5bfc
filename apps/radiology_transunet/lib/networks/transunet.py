"""TransUNet for slices: a residual stem, a vision transformer on its features, a decoder with skips.

Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", arXiv:2102.04306. The stem
is the ResNetV2 of Big Transfer (Kolesnikov et al., arXiv:1912.11370) with weight standardisation (Qiao et al.,
arXiv:1903.10520) and group norm. Read from the bottom: TransUNet, then its three parts in the order of an image.

Letters in shape comments: B slices of a batch, C channels, H rows, W columns, h and w rows and columns of tokens,
N = h w tokens, D width of a token, d width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every torch user reads at once)

from lib.core.errors import InvalidVolume
from lib.networks.config import Architecture, NetworkConfig
from lib.networks.network import Network

STANDARDISE_EPS = 1e-5
NORM_EPS = 1e-6
POSITION_STD = 0.02


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
        inside = F.relu(self.reduce_norm(self.reduce(features)))
        inside = F.relu(self.mix_norm(self.mix(inside)))
        inside = self.expand_norm(self.expand(inside))
        return F.relu(self.shortcut(features) + inside)


class Stem(nn.Module):
    """The convolutional half of the encoder: images to features at 1/2, 1/4, ... 1/stride."""

    def __init__(self, sizes: Architecture, in_channels: int) -> None:
        super().__init__()
        width = sizes.stem_channels
        self.root = StandardisedConv2d(in_channels, width, 7, stride=2)
        self.root_norm = nn.GroupNorm(gcd(sizes.norm_groups, width), width, NORM_EPS)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for depth, (channels, blocks) in enumerate(zip(sizes.stage_channels, sizes.stage_blocks, strict=True)):
            stride = 1 if depth == 0 else 2
            first = Bottleneck(width, channels, sizes.norm_groups, stride)
            rest = [Bottleneck(channels, channels, sizes.norm_groups) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            width = channels

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The deepest features (B, C, h, w), and the shallower ones, deepest first, as skips."""
        features = F.relu(self.root_norm(self.root(images)))  # (B, C, H/2, W/2)
        skips = [features]
        features = self.pool(features)  # (B, C, H/4, W/4)
        for stage in self.stages:
            features = stage(features)
            skips.insert(0, features)
        return skips[0], skips[1:]


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(d)) v for each head."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to mixtures of their values (B, N, D)."""
        qkv = rearrange(self.qkv(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        attended = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # (B, heads, N, d)
        mixed: Tensor = self.out(rearrange(attended, "b heads n d -> b n (heads d)"))  # (B, N, D)
        return mixed


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm and around a shortcut."""

    def __init__(self, sizes: Architecture, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(sizes.hidden, NORM_EPS)
        self.attention = Attention(sizes.hidden, sizes.heads)
        self.mlp_norm = nn.LayerNorm(sizes.hidden, NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(sizes.hidden, sizes.mlp),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(sizes.mlp, sizes.hidden),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to (B, N, D)."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        mixed: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return mixed


def resize_positions(positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Position embedding (1, N, D) of `grid` rows and columns of tokens, for another grid.

    Bicubic as in Dosovitskiy et al., arXiv:2010.11929, section 3.2; the grid itself comes back unchanged.
    """
    if grid == wanted:
        return positions
    planes = rearrange(positions, "one (h w) d -> one d h w", h=grid[0], w=grid[1])
    planes = F.interpolate(planes, size=wanted, mode="bicubic", align_corners=False)
    resized: Tensor = rearrange(planes, "one d h w -> one (h w) d")  # (1, N, D)
    return resized


class Transformer(nn.Module):
    """The attentive half of the encoder: features to tokens that have seen each other."""

    def __init__(self, sizes: Architecture, dropout: float) -> None:
        super().__init__()
        self.grid = sizes.position_grid
        self.project = nn.Conv2d(sizes.stage_channels[-1], sizes.hidden, 1)
        self.positions = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], sizes.hidden))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(sizes, dropout) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.hidden, NORM_EPS)
        nn.init.normal_(self.positions, std=POSITION_STD)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to tokens (B, N, D)."""
        height, width = features.shape[-2:]
        tokens = rearrange(self.project(features), "b c h w -> b (h w) c")  # (B, N, D)
        tokens = self.dropout(tokens + resize_positions(self.positions, self.grid, (height, width)))
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


class ConvNormReLU(nn.Sequential):
    """A 3x3 convolution of the decoder."""

    def __init__(self, channels_in: int, channels_out: int, sizes: Architecture) -> None:
        norm: nn.Module = nn.BatchNorm2d(channels_out)
        if sizes.decoder_norm == "group":
            norm = nn.GroupNorm(gcd(sizes.norm_groups, channels_out), channels_out)
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        super().__init__(convolution, norm, nn.ReLU(inplace=True))


class UpBlock(nn.Module):
    """Twice the size, joined with the skip of that size where there is one, then two convolutions."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int, sizes: Architecture) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            ConvNormReLU(channels_in + channels_skip, channels_out, sizes),
            ConvNormReLU(channels_out, channels_out, sizes),
        )

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        """Features (B, C, h, w) and the skip (B, C, 2h, 2w) to (B, channels_out, 2h, 2w)."""
        features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        if skip is not None:
            features = torch.cat([features, skip], dim=1)
        mixed: Tensor = self.convolutions(features)
        return mixed


class Upsampler(nn.Module):
    """The cascaded upsampler: token features and skips to logits of the image's size.

    Each step doubles the size. Where the sizes name fewer steps than the stride needs, the head makes the rest at once
    by sub-pixel convolution (Shi et al., arXiv:1609.05158): on CPUs the full resolution costs most of the time.
    """

    def __init__(self, sizes: Architecture, classes: int) -> None:
        super().__init__()
        first, *steps = sizes.decoder_channels
        skips = [*reversed(sizes.stage_channels[:-1]), sizes.stem_channels, 0]
        self.entry = ConvNormReLU(sizes.hidden, first, sizes)
        self.blocks = nn.ModuleList(
            UpBlock(before, skip, after, sizes)
            for before, skip, after in zip([first, *steps], skips, steps, strict=False)
        )
        self.subpixels = sizes.stride // 2 ** len(steps)
        self.head = nn.Conv2d(steps[-1], classes * self.subpixels**2, 3, padding=1)

    def forward(self, features: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Features (B, D, h, w) and skips, deepest first, to logits (B, classes, H, W)."""
        features = self.entry(features)
        for depth, block in enumerate(self.blocks):
            features = block(features, skips[depth] if depth < len(skips) else None)
        return F.pixel_shuffle(self.head(features), self.subpixels)  # (B, classes, H, W)


@dataclass(frozen=True, slots=True)
class Encoding:
    """What the encoder says of a batch of slices.

    Attributes:
        tokens: (B, N, D), row by row.
        grid: (h, w), N = h w.
        skips: features (B, C, H/k, W/k) for the decoder, deepest first.
    """

    tokens: Tensor
    grid: tuple[int, int]
    skips: tuple[Tensor, ...]

    @property
    def embedding(self) -> Tensor:
        """Mean token of each slice, (B, D)."""
        return self.tokens.mean(dim=1)


class TransUNet(Network):
    """Slices (B, in_channels, H, W) to logits (B, classes, H, W); H and W are multiples of `stride`.

    Args:
        config: the size.
        in_channels: slices or channels that enter together.
        classes: labels and background.
    """

    def __init__(self, config: NetworkConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        sizes = config.architecture
        self.stride = sizes.stride
        self.stem = Stem(sizes, in_channels)
        self.transformer = Transformer(sizes, config.dropout)
        self.upsampler = Upsampler(sizes, classes)

    def encode(self, images: Tensor) -> Encoding:
        """Images (B, in_channels, H, W) to tokens and skips.

        Raises:
            InvalidVolume: a side that is no multiple of the stride, or only one token in all.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride or height * width <= self.stride**2:
            raise InvalidVolume(
                f"rows and columns must be multiples of {self.stride} with two tokens or more, got {height} x {width}"
            )
        features, skips = self.stem(images)
        return Encoding(self.transformer(features), (features.shape[-2], features.shape[-1]), tuple(skips))

    def decode(self, encoding: Encoding) -> Tensor:
        """Logits (B, classes, H, W) of an encoding."""
        height, width = encoding.grid
        features = rearrange(encoding.tokens, "b (h w) d -> b d h w", h=height, w=width)
        logits: Tensor = self.upsampler(features, encoding.skips)
        return logits

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes, H, W) of images (B, in_channels, H, W), and the embedding (B, D) of each."""
        encoding = self.encode(images)
        return self.decode(encoding), encoding.embedding

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, classes, H, W)."""
        return self.decode(self.encode(images))
