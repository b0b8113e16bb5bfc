"""TransUNet for slices: a residual stem, a vision transformer on its features, a decoder with skips.

Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", arXiv:2102.04306. The stem
is in resnet.py; the transformer is the one of Dosovitskiy et al., arXiv:2010.11929. A pure vision transformer has no
stem: its tokens are patches of the image, and its decoder has no skips. Read from the bottom: TransUNet, then its parts
in the order of an image.

Letters in shape comments: B slices of a batch, C channels, H rows, W columns, h and w rows and columns of tokens,
N = h w tokens, D width of a token, d width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, sqrt

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every torch user reads at once)

from lib.core.errors import InvalidVolume
from lib.networks.config import Architecture, NetworkConfig
from lib.networks.network import Network
from lib.networks.resnet import NORM_EPS, Stem

POSITION_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(d)) v for each head."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to mixtures of their values (B, N, D)."""
        query, key, value = self._split(tokens)
        attended = F.scaled_dot_product_attention(query, key, value)  # (B, heads, N, d)
        mixed: Tensor = self.out(rearrange(attended, "b heads n d -> b n (heads d)"))  # (B, N, D)
        return mixed

    def weights(self, tokens: Tensor) -> Tensor:
        """How much of each token (last axis) each token (last but one) takes, (B, heads, N, N); rows sum to 1."""
        query, key, _ = self._split(tokens)
        return torch.softmax(query @ key.transpose(-2, -1) / sqrt(query.shape[-1]), dim=-1)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, heads, N, d) each."""
        qkv = rearrange(self.qkv(tokens), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        return qkv[0], qkv[1], qkv[2]


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

    Interpolated in two dimensions, Dosovitskiy et al., arXiv:2010.11929, section 3.2; bicubic is our choice. The grid
    itself comes back unchanged.
    """
    if grid == wanted:
        return positions
    planes = rearrange(positions, "one (h w) d -> one d h w", h=grid[0], w=grid[1])
    planes = F.interpolate(planes, size=wanted, mode="bicubic", align_corners=False)
    resized: Tensor = rearrange(planes, "one d h w -> one (h w) d")  # (1, N, D)
    return resized


class Transformer(nn.Module):
    """The attentive half of the encoder: features, or an image, to tokens that have seen each other."""

    def __init__(self, sizes: Architecture, channels: int, dropout: float) -> None:
        super().__init__()
        self.grid = sizes.position_grid
        self.project = nn.Conv2d(channels, sizes.hidden, sizes.patch, stride=sizes.patch)
        self.positions = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], sizes.hidden))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(sizes, dropout) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.hidden, NORM_EPS)
        nn.init.normal_(self.positions, std=POSITION_STD)

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, C, patch h, patch w) to tokens (B, N, D) that know their position; before any dropout."""
        tokens = self.project(features)  # (B, D, h, w)
        positions = resize_positions(self.positions, self.grid, (tokens.shape[-2], tokens.shape[-1]))
        embedded: Tensor = rearrange(tokens, "b d h w -> b (h w) d") + positions  # (B, N, D)
        return embedded

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, patch h, patch w) to tokens (B, N, D)."""
        return self.mix(self.embed(features))

    def mix(self, tokens: Tensor) -> Tensor:
        """Embedded tokens (B, N, D) to tokens (B, N, D) that have seen each other."""
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed

    def attention_maps(self, features: Tensor) -> tuple[Tensor, ...]:
        """The attention weights (B, heads, N, N) of each block."""
        maps = []
        tokens = self.dropout(self.embed(features))
        for block in self.blocks:
            assert isinstance(block, Block)
            maps.append(block.attention.weights(block.attention_norm(tokens)))
            tokens = block(tokens)
        return tuple(maps)


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
        skips = [*reversed(sizes.stage_channels[:-1]), sizes.stem_channels, *(0 for _ in steps)]
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
        self.stem = Stem(sizes, in_channels) if sizes.stage_channels else None
        features = sizes.stage_channels[-1] if sizes.stage_channels else in_channels
        self.transformer = Transformer(sizes, features, config.dropout)
        self.upsampler = Upsampler(sizes, classes)

    def encode(self, images: Tensor) -> Encoding:
        """Images (B, in_channels, H, W) to tokens and skips.

        Raises:
            InvalidVolume: a side that is no multiple of the stride, or only one token in all.
        """
        begun = self.before_dropout(images)
        return replace(begun, tokens=self.transformer.mix(begun.tokens))

    def before_dropout(self, images: Tensor) -> Encoding:
        """Stem and embedding of images (B, in_channels, H, W): tokens that have not seen each other, and skips."""
        features, skips = self._features(images)
        grid = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        return Encoding(self.transformer.embed(features), grid, tuple(skips))

    def after_dropout(self, begun: Encoding) -> tuple[Tensor, Tensor]:
        """Transformer and decoder: logits (B, classes, H, W) and embedding (B, D)."""
        encoding = replace(begun, tokens=self.transformer.mix(begun.tokens))
        return self.decode(encoding), encoding.embedding

    def decode(self, encoding: Encoding) -> Tensor:
        """Logits (B, classes, H, W) of an encoding."""
        height, width = encoding.grid
        features = rearrange(encoding.tokens, "b (h w) d -> b d h w", h=height, w=width)
        logits: Tensor = self.upsampler(features, encoding.skips)
        return logits

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes, H, W) of images (B, in_channels, H, W), and the embedding (B, D) of each."""
        return self.after_dropout(self.before_dropout(images))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, classes, H, W)."""
        return self.decode(self.encode(images))

    def attention_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """For explanation: the attention weights (B, heads, N, N) of each block; tokens run row by row.

        Costs a pass through the encoder and holds all maps at once.
        """
        maps: tuple[Tensor, ...] = self.transformer.attention_maps(self._features(images)[0])
        return maps

    def _features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What becomes tokens, and the skips, of images of a size that the network can take."""
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride or height * width <= self.stride**2:
            raise InvalidVolume(
                f"rows and columns must be multiples of {self.stride} with two tokens or more, got {height} x {width}"
            )
        return (images, []) if self.stem is None else self.stem(images)
