"""The transformer decoder of the 3D TransUNet: learned queries that find their class in the features, coarse to fine.

Chen et al., Medical Image Analysis 2024, section 3.3; masked attention is that of Cheng et al., "Masked-attention Mask
Transformer for Universal Image Segmentation", arXiv:2112.01527. In place of matching queries to classes anew at each
step, every class has queries of its own: the classes of a segmentation are known beforehand.

Letters in shape comments: B patches, Q = queries x classes, D width of a query, E features of a voxel, N = s h w voxels
of a level, k sub-voxels of each.
"""

from collections.abc import Sequence
from math import log

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every torch user reads at once)

from lib.networks.encoder3d import Attention, Mlp, SelfAttentionBlock
from lib.networks.sizes import Architecture3d


def sine_positions(like: Tensor, hidden: int) -> Tensor:
    """Where the features (B, C, s, h, w) lie: (1, N, hidden), a third for each axis.

    Sines and cosines of 1, 2, ... half waves from one end of the axis to the other, so that a place is described alike
    on every level.
    """
    waves = hidden // 6
    half_waves = torch.arange(1, waves + 1, device=like.device, dtype=torch.float32)
    grid = like.shape[2:]
    parts = []
    for axis, side in enumerate(grid):
        centres = (torch.arange(side, device=like.device, dtype=torch.float32) + 0.5) / side  # from 0 to 1
        angles = torch.pi * centres[:, None] * half_waves  # (side, waves)
        encoded = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, 2 waves)
        shape = [1, 1, 1, 2 * waves]
        shape[axis] = side
        parts.append(encoded.view(shape).expand(*grid, 2 * waves))
    positions: Tensor = rearrange(torch.cat(parts, dim=-1), "s h w d -> 1 (s h w) d")
    return positions


def visible(logits: Tensor) -> Tensor:
    """Which voxels (B, C, N) the queries of a class may see: those likelier of that class than by chance.

    A class that is likelier nowhere sees everything: nothing could be attended to otherwise.

    Args:
        logits: (B, C, N) of the prediction before.
    """
    seen = logits.detach().float().softmax(dim=1) > 1 / logits.shape[1]
    return seen | ~seen.any(dim=2, keepdim=True)


class Refinement(nn.Module):
    """One round: queries look at their part of the image, features of so many channels, then at each other."""

    def __init__(self, sizes: Architecture3d, channels: int, dropout: float) -> None:
        super().__init__()
        self.look_norm = nn.LayerNorm(sizes.query_hidden)
        self.look = Attention(sizes.query_hidden, sizes.heads, channels)
        self.exchange = SelfAttentionBlock(sizes.query_hidden, sizes.heads, sizes.query_mlp, dropout)

    def forward(self, queries: Tensor, tokens: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
        """Queries (B, Q, D), tokens (B, N, C) at positions (1, N, D), seen (B, Q, N), to queries (B, Q, D)."""
        queries = queries + self.look(self.look_norm(queries), tokens, positions, seen)
        exchanged: Tensor = self.exchange(queries)
        return exchanged


class QueryDecoder(nn.Module):
    """Queries to logits in rounds, each on features of the next finer level.

    Args:
        sizes: the size.
        classes: labels and background.
        channels: of the levels that the rounds look at, coarse to fine; the last serves all further rounds.
        fine_channels: of the finest features, of which the voxels are made that queries are compared with.
        subvoxels: voxels of the image that each position of the finest features stands for.
        dropout: share of features dropped in training.
    """

    def __init__(
        self,
        sizes: Architecture3d,
        classes: int,
        channels: Sequence[int],
        fine_channels: int,
        subvoxels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.classes, self.per_class = classes, sizes.queries
        self.queries = nn.Parameter(torch.randn(classes * sizes.queries, sizes.query_hidden))
        widths = [*channels, *[channels[-1]] * sizes.rounds][: sizes.rounds]
        self.rounds = nn.ModuleList(Refinement(sizes, width, dropout) for width in widths)
        self.norm = nn.LayerNorm(sizes.query_hidden)
        self.ask = nn.Sequential(
            Mlp(sizes.query_hidden, sizes.query_mlp, dropout), nn.Linear(sizes.query_hidden, sizes.mask_channels)
        )
        self.voxels = nn.Conv3d(fine_channels, sizes.mask_channels * subvoxels, 1)

    def forward(self, levels: Sequence[Tensor], fine: Tensor) -> list[Tensor]:
        """Logits of each round, the last first.

        Args:
            levels: features (B, C, s, h, w) coarse to fine, as many as there are `channels`.
            fine: the finest features (B, C, s, h, w).

        Returns:
            The last round's logits (B, classes k, s, h, w) on the grid of `fine`, k = subvoxels; then those with which
            each earlier round, and the untouched queries, chose what the next one looks at: (B, classes, s, h, w) on
            the grid of that round's level.
        """
        subvoxel_features = rearrange(
            self.voxels(fine), "b (e k) s h w -> b e k s h w", e=self.ask[1].out_features
        )  # (B, E, k, s, h, w)
        features = reduce(subvoxel_features, "b e k s h w -> b e s h w", "mean")
        queries = self.queries.expand(len(fine), -1, -1)
        earlier: list[Tensor] = []
        for index, refine in enumerate(self.rounds):
            level = levels[min(index, len(levels) - 1)]
            slices, rows, columns = level.shape[2:]
            coarse = F.adaptive_avg_pool3d(features, (slices, rows, columns))
            logits = self.compare(queries, coarse)  # (B, classes, s, h, w)
            earlier.insert(0, logits)
            seen = visible(logits.flatten(2)).repeat_interleave(self.per_class, dim=1)  # (B, Q, N)
            tokens = rearrange(level, "b c s h w -> b (s h w) c")  # (B, N, C)
            queries = refine(queries, tokens, sine_positions(level, queries.shape[-1]), seen)
        final = self.compare(queries, subvoxel_features)  # (B, classes, k, s, h, w)
        return [final.flatten(1, 2), *earlier]

    def compare(self, queries: Tensor, features: Tensor) -> Tensor:
        """Queries (B, Q, D) and features (B, E, ...) to logits (B, classes, ...).

        A class is as likely as its queries together say: the logarithm of the mean of their exponentials.
        """
        asked = self.ask(self.norm(queries))  # (B, Q, E)
        likeness = torch.einsum("bqe,ben->bqn", asked, features.flatten(2)) * asked.shape[-1] ** -0.5
        if self.per_class > 1:
            sets = rearrange(likeness, "b (c m) n -> b c m n", m=self.per_class)
            likeness = sets.logsumexp(dim=2) - log(self.per_class)
        logits: Tensor = likeness.unflatten(2, features.shape[2:])
        return logits
