"""The convolutional path of the 3D TransUNet, as nnU-Net builds it, and the transformer on its deepest features.

Isensee et al., "nnU-Net", Nature Methods 2021; Chen et al., "TransUNet: Rethinking the U-Net architecture design for
medical image segmentation through the lens of transformers", Medical Image Analysis 2024.

Letters in shape comments: B patches of a batch, C channels, s, h, w slices, rows and columns of features, N = s h w
tokens, D width of a token, d width of a head, Q queries.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every torch user reads at once)

from lib.networks.sizes import Architecture3d
from lib.networks.topology import Triple

NEGATIVE_SLOPE = 0.01
POSITION_STD = 0.02


def fold(images: Tensor, factor: Triple) -> Tensor:
    """Voxels into channels: (B, C, s p, h q, w r) to (B, C p q r, s, h, w) for the factor (p, q, r)."""
    p, q, r = factor
    folded: Tensor = rearrange(images, "b c (s p) (h q) (w r) -> b (c p q r) s h w", p=p, q=q, r=r)
    return folded


def unfold(features: Tensor, factor: Triple) -> Tensor:
    """The way back: (B, C p q r, s, h, w) to (B, C, s p, h q, w r)."""
    p, q, r = factor
    unfolded: Tensor = rearrange(features, "b (c p q r) s h w -> b c (s p) (h q) (w r)", p=p, q=q, r=r)
    return unfolded


class ConvNormReLU3d(nn.Sequential):
    """A convolution, instance norm (a group norm of one channel a group: the same, and faster on CPUs), leaky ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(
            nn.Conv3d(channels_in, channels_out, kernel, stride, padding, bias=False),
            nn.GroupNorm(channels_out, channels_out),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
        )


class Encoder3d(nn.Module):
    """Stages of two convolutions, the first of each with the stage's stride.

    Args:
        in_channels: of the images.
        channels: of each stage.
        kernels: of each stage.
        strides: of each stage, the first one's included.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], kernels: Sequence[Triple], strides: Sequence[Triple]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width, kernel, stride in zip(channels, kernels, strides, strict=True):
            first = ConvNormReLU3d(in_channels, width, kernel, stride)
            self.stages.append(nn.Sequential(first, ConvNormReLU3d(width, width, kernel)))
            in_channels = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, S, H, W) to the features (B, C, s, h, w) of each stage, the finest first."""
        features = []
        for stage in self.stages:
            images = stage(images)
            features.append(images)
        return features


class UpBlock3d(nn.Module):
    """Features enlarged by the stride, joined with the skip of that size, then convolutions.

    A transposed convolution whose kernel is its stride is a 1x1x1 convolution and an unfolding; so written it takes a
    fifth of the time on CPUs.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple, convolutions: int) -> None:
        super().__init__()
        self.stride = stride
        self.enlarge = nn.Conv3d(channels_in, channels_out * prod(stride), 1, bias=False)
        widths = [2 * channels_out] + [channels_out] * convolutions
        self.convolutions = nn.Sequential(
            *(ConvNormReLU3d(before, after, kernel) for before, after in pairwise(widths))
        )

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Features (B, C, s, h, w) and the skip, larger by the stride, to (B, channels_out, ...) of the skip's size."""
        features = unfold(self.enlarge(features), self.stride)
        mixed: Tensor = self.convolutions(torch.cat([features, skip], dim=1))
        return mixed


class Decoder3d(nn.Module):
    """The upsampling path: from the deepest features through one block a skip.

    Args:
        channels: of each stage of the encoder.
        kernels: of each stage.
        strides: of each stage after the first.
        convolutions: of each block.
    """

    def __init__(
        self, channels: Sequence[int], kernels: Sequence[Triple], strides: Sequence[Triple], convolutions: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            UpBlock3d(channels[stage + 1], channels[stage], kernels[stage], strides[stage], convolutions)
            for stage in reversed(range(len(channels) - 1))
        )

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's features, finest first, to features of each size, the deepest first."""
        levels = [stages[-1]]
        for block, skip in zip(self.blocks, reversed(stages[:-1]), strict=True):
            levels.append(block(levels[-1], skip))
        return levels


class Attention(nn.Module):
    """Multi-head attention of queries to a memory: softmax(q k^T / sqrt(d)) v for each head.

    Args:
        hidden: width D of a query.
        heads: attention heads.
        memory: width M of a token of the memory; None = that of a query.
    """

    def __init__(self, hidden: int, heads: int, memory: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(memory or hidden, hidden, bias=False)  # a bias of the keys cancels in the softmax
        self.value = nn.Linear(memory or hidden, hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(
        self, queries: Tensor, memory: Tensor, positions: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Queries (B, Q, D) and a memory (B, N, M) to mixtures of the memory's values (B, Q, D).

        Args:
            queries: what asks.
            memory: what is asked.
            positions: (1, N, D), added to the keys.
            seen: (B, Q, N) bool, which tokens a query may see; each must see one at least. None = all.
        """
        keys = self.key(memory) if positions is None else self.key(memory) + positions
        split = "b n (heads d) -> b heads n d"
        query = rearrange(self.query(queries), split, heads=self.heads)
        key = rearrange(keys, split, heads=self.heads)
        value = rearrange(self.value(memory), split, heads=self.heads)
        mask = None if seen is None else seen[:, None]  # the same for every head
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, heads, Q, d)
        mixed: Tensor = self.out(rearrange(attended, "b heads n d -> b n (heads d)"))  # (B, Q, D)
        return mixed


class Mlp(nn.Sequential):
    """Two linear layers around a GELU."""

    def __init__(self, hidden: int, inside: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(hidden, inside), nn.GELU(), nn.Dropout(dropout), nn.Linear(inside, hidden), nn.Dropout(dropout)
        )


class SelfAttentionBlock(nn.Module):
    """Attention of tokens to each other and an MLP, each behind a layer norm and around a shortcut."""

    def __init__(self, hidden: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, heads)
        self.mlp_norm = nn.LayerNorm(hidden)
        self.mlp = Mlp(hidden, mlp, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to (B, N, D)."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed)
        mixed: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return mixed


def resize_positions(positions: Tensor, grid: Triple) -> Tensor:
    """Position embedding (1, D, s, h, w), trilinear, for another grid; the same grid gives it back unchanged."""
    if positions.shape[2:] == grid:
        return positions
    return F.interpolate(positions, size=grid, mode="trilinear", align_corners=False)


class TokenEncoder(nn.Module):
    """The transformer encoder: the deepest features as tokens that see each other.

    What it finds is added to the features, so that the convolutions learn from the first step on.

    Args:
        sizes: the size.
        channels: of the features.
        grid: of the features of the patch that the network is made for.
        dropout: share of features dropped in training.
    """

    def __init__(self, sizes: Architecture3d, channels: int, grid: Triple, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(channels, sizes.hidden)
        self.positions = nn.Parameter(torch.empty(1, sizes.hidden, *grid))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(sizes.hidden, sizes.heads, sizes.mlp, dropout) for _ in range(sizes.layers)
        )
        self.norm = nn.LayerNorm(sizes.hidden)
        self.out = nn.Linear(sizes.hidden, channels)
        nn.init.normal_(self.positions, std=POSITION_STD)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, s, h, w) to features of the same shape."""
        return self.mix(features, self.embed(features))

    def embed(self, features: Tensor) -> Tensor:
        """Features (B, C, s, h, w) to tokens (B, N, D) that know their position; before any dropout."""
        slices, rows, columns = features.shape[2:]
        positions = resize_positions(self.positions, (slices, rows, columns))
        tokens = self.project(rearrange(features, "b c s h w -> b (s h w) c"))  # (B, N, D)
        embedded: Tensor = tokens + rearrange(positions, "one d s h w -> one (s h w) d")
        return embedded

    def mix(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Features (B, C, s, h, w) and their embedded tokens (B, N, D) to features of the same shape."""
        slices, rows, columns = features.shape[2:]
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        found = self.out(self.norm(tokens))  # (B, N, C)
        added: Tensor = features + rearrange(found, "b (s h w) c -> b c s h w", s=slices, h=rows, w=columns)
        return added
