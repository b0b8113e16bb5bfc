"""MONAI's networks behind this house's interface: each takes one that is made already.

Nothing of a call is kept on a module: inference asks one network from many threads.
"""

from contextvars import ContextVar
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name that every torch user reads at once)

from lib.networks.network import Network, require_sides

UNETR_SKIPS = (3, 6, 9)
"""Blocks of UNETR whose tokens become skips, counted from 0, as MONAI takes them."""

_deepest: ContextVar[list[Tensor] | None] = ContextVar("deepest", default=None)


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
        positions = resize_positions(vit.patch_embedding.position_embeddings, self.module.feat_size, tuple(grid))
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


def resize_positions(stored: Tensor, grid: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """Position embedding (1, N, D) of a grid, linear between its positions, for another grid."""
    if grid == wanted:
        return stored
    planes = rearrange(stored, "one n d -> one d n").unflatten(2, grid)
    mode = "trilinear" if len(grid) == 3 else "bilinear"
    resized = F.interpolate(planes, size=[*wanted], mode=mode, align_corners=False)
    positions: Tensor = rearrange(resized, "one d ... -> one (...) d")
    return positions
