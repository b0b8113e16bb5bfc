"""Weights from elsewhere, as dicts of tensors, to the state dict of our TransUNet.

Two layouts: the reference implementation of Chen et al. in PyTorch (a whole segmentation network), and the vision
transformers of Dosovitskiy et al. as NumPy archives (an encoder; the decoder keeps the values that it has). Every
foreign tensor is used or known to be of no use, every one of ours is filled, or one error names all that is wrong.
Nothing is read or written here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from lib.core.errors import InvalidWeights
from lib.networks.transunet import resize_positions

Layout = Literal["reference", "archive"]
Head = Literal["same", "fresh"]
Weights = Mapping[str, Tensor]

_HYBRID = "transformer.embeddings.hybrid_model."
_LAYER = "transformer.encoder.layer.{n[0]}."
_UNIT = "body.block{m[0]}.unit{m[1]}."
_BLOCK = "Transformer/encoderblock_{n[0]}/"
_ATTENTION = "MultiHeadDotProductAttention_1/"
_ARCHIVE_UNIT = "block{m[0]}/unit{m[1]}/"

PARTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # ours, # = a number; the reference's, then the archive's: n = our numbers, m = the same counted from 1
    ("stem.root", (_HYBRID + "root.conv",), ("conv_root",)),
    ("stem.root_norm", (_HYBRID + "root.gn",), ("gn_root",)),
    ("stem.stages.#.#.reduce", (_HYBRID + _UNIT + "conv1",), (_ARCHIVE_UNIT + "conv1",)),
    ("stem.stages.#.#.reduce_norm", (_HYBRID + _UNIT + "gn1",), (_ARCHIVE_UNIT + "gn1",)),
    ("stem.stages.#.#.mix", (_HYBRID + _UNIT + "conv2",), (_ARCHIVE_UNIT + "conv2",)),
    ("stem.stages.#.#.mix_norm", (_HYBRID + _UNIT + "gn2",), (_ARCHIVE_UNIT + "gn2",)),
    ("stem.stages.#.#.expand", (_HYBRID + _UNIT + "conv3",), (_ARCHIVE_UNIT + "conv3",)),
    ("stem.stages.#.#.expand_norm", (_HYBRID + _UNIT + "gn3",), (_ARCHIVE_UNIT + "gn3",)),
    ("stem.stages.#.#.shortcut.0", (_HYBRID + _UNIT + "downsample",), (_ARCHIVE_UNIT + "conv_proj",)),
    ("stem.stages.#.#.shortcut.1", (_HYBRID + _UNIT + "gn_proj",), (_ARCHIVE_UNIT + "gn_proj",)),
    ("transformer.project", ("transformer.embeddings.patch_embeddings",), ("embedding",)),
    ("transformer.blocks.#.attention_norm", (_LAYER + "attention_norm",), (_BLOCK + "LayerNorm_0",)),
    (
        "transformer.blocks.#.attention.qkv",
        tuple(_LAYER + "attn." + part for part in ("query", "key", "value")),
        tuple(_BLOCK + _ATTENTION + part for part in ("query", "key", "value")),
    ),
    ("transformer.blocks.#.attention.out", (_LAYER + "attn.out",), (_BLOCK + _ATTENTION + "out",)),
    ("transformer.blocks.#.mlp_norm", (_LAYER + "ffn_norm",), (_BLOCK + "LayerNorm_2",)),
    ("transformer.blocks.#.mlp.0", (_LAYER + "ffn.fc1",), (_BLOCK + "MlpBlock_3/Dense_0",)),
    ("transformer.blocks.#.mlp.3", (_LAYER + "ffn.fc2",), (_BLOCK + "MlpBlock_3/Dense_1",)),
    ("transformer.norm", ("transformer.encoder.encoder_norm",), ("Transformer/encoder_norm",)),
    ("upsampler.entry.#", ("decoder.conv_more.{n[0]}",), ()),
    ("upsampler.blocks.#.convolutions.#.#", ("decoder.blocks.{n[0]}.conv{m[1]}.{n[2]}",), ()),
    ("upsampler.head", ("segmentation_head.0",), ()),
)
POSITIONS = "transformer.positions"
POSITIONS_OF: Mapping[Layout, str] = {
    "reference": "transformer.embeddings.position_embeddings",
    "archive": "Transformer/posembed_input/pos_embedding",
}
ROOT, PATCHES = "stem.root.weight", "transformer.project.weight"
HEAD = "upsampler.head."
NEEDLESS = ("cls", "head/kernel", "head/bias", "pre_logits/kernel", "pre_logits/bias")
"""What an archive holds for classification: the class token and what comes after it."""

MOST_NAMED = 8


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """What became of a dict of foreign weights.

    Attributes:
        layout: which one it was.
        state: the state dict for our network, complete.
        sources: foreign names of each tensor of ours that was filled.
        fresh: names of ours that keep the values that they had.
        unused: foreign names that are of no use here.
        changes: sentences on tensors that were adapted.
    """

    layout: Layout
    state: dict[str, Tensor]
    sources: dict[str, tuple[str, ...]]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    changes: tuple[str, ...]


def convert(foreign: Weights, ours: Weights, position_grid: tuple[int, int], head: Head = "same") -> Imported:
    """Fill our network from foreign weights.

    Two tensors may be adapted: the position embedding is resized where its grid is another one, and the kernels that
    see the image change their number of channels, see `with_channels`.

    Args:
        foreign: tensors by their names in the reference implementation or in an archive.
        ours: state dict of our network, for names and shapes, and for the values of what the weights do not have.
        position_grid: (rows, columns) of tokens in our position embedding.
        head: "fresh" leaves our last convolution as it is; "same" takes the foreign one, if there is one.

    Raises:
        InvalidWeights: neither layout; tensors that are missing, unknown, or of another shape.
    """
    layout = layout_of(foreign)
    sources = {name: _sources(name, layout) for name in ours}
    kept = {name for name, found in sources.items() if not found or (head == "fresh" and name.startswith(HEAD))}
    filled = {name: found for name, found in sources.items() if name not in kept}
    used = {source for found in filled.values() for source in found}
    needless = {source for name in kept for source in sources[name]} | set(NEEDLESS if layout == "archive" else ())
    state, changes, wrong = dict(ours), [], []
    for name, found in filled.items():
        if missing := [source for source in found if source not in foreign]:
            wrong.append(f"{name} needs {', '.join(missing)}, which is not there")
            continue
        tensors = [foreign[source] for source in found]
        state[name] = _adapted(name, _joined(tensors, ours[name].shape, layout), ours, layout, position_grid)
        shapes = f"{', '.join(found)} {tuple(tensors[0].shape)}"
        if state[name].shape != ours[name].shape:
            wrong.append(f"{name} {tuple(ours[name].shape)} cannot come from {shapes}")
            continue
        state[name] = state[name].to(ours[name].dtype)
        if state[name].numel() != sum(tensor.numel() for tensor in tensors):
            changes.append(f"{name} {tuple(ours[name].shape)} made from {shapes}")
    odd = sorted(foreign.keys() - used - needless)
    _refuse(wrong + [f"{name} {tuple(foreign[name].shape)} belongs to nothing here" for name in odd])
    fresh = tuple(name for name in ours if name in kept)
    return Imported(layout, state, filled, fresh, tuple(sorted(needless & foreign.keys())), tuple(changes))


def layout_of(foreign: Weights) -> Layout:
    """Which layout the names are of.

    Raises:
        InvalidWeights: of neither.
    """
    for layout, name in POSITIONS_OF.items():
        if name in foreign:
            return layout
    some = ", ".join(sorted(foreign)[:MOST_NAMED]) or "none"
    raise InvalidWeights(
        f"weights must have the names of the reference implementation (with {POSITIONS_OF['reference']}) or of an "
        f"archive (with {POSITIONS_OF['archive']}), got {some}"
    )


def classes_of(foreign: Weights) -> int | None:
    """Classes, with the background, that the weights' head tells apart; None without a segmentation head."""
    kernel = foreign.get("segmentation_head.0.weight")
    return None if kernel is None else kernel.shape[0]


def with_channels(kernels: Tensor, channels: int) -> Tensor:
    """Kernels (out, in, rows, columns) for another number of input channels.

    The kernels of all channels are summed and shared out evenly, so that an image that is the same in every channel
    gives the same features as before. (Behind a weight standardisation: up to a factor of each feature, which the norm
    that follows takes out as far as it has groups of its own.) With the same number of channels nothing changes.
    """
    given = kernels.shape[1]
    if given == channels:
        return kernels
    return kernels.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1).contiguous() / channels


def _sources(name: str, layout: Layout) -> tuple[str, ...]:
    """The foreign names that fill a tensor of ours; none where the layout has nothing for it.

    Raises:
        InvalidWeights: a name that no part of TransUNet has.
    """
    if name == POSITIONS:
        return (POSITIONS_OF[layout],)
    module, _, leaf = name.rpartition(".")
    for part, reference, archive in PARTS:
        if found := re.fullmatch(re.escape(part).replace(r"\#", r"(\d+)"), module):
            numbers = [int(number) for number in found.groups()]
            following = [number + 1 for number in numbers]
            modules = [
                text.format(n=numbers, m=following) for text in (reference if layout == "reference" else archive)
            ]
            return tuple(_leaf(foreign, leaf, layout) for foreign in modules)
    raise InvalidWeights(f"weights from elsewhere are for TransUNet of slices, nothing is known of {name}")


def _leaf(module: str, leaf: str, layout: Layout) -> str:
    """The foreign name of a weight or bias of a module."""
    if layout == "reference":
        return f"{module}.{leaf}"
    is_norm = re.search(r"(LayerNorm_\d|encoder_norm|gn\w+)$", module)
    return f"{module}/" + {"weight": "scale" if is_norm else "kernel"}.get(leaf, leaf)


def _joined(tensors: Sequence[Tensor], wanted: torch.Size, layout: Layout) -> Tensor:
    """Foreign tensors as one in the order of axes of PyTorch; of a wrong shape where they do not fit."""
    if layout == "archive":
        tensors = [_from_archive(tensor, wanted) for tensor in tensors]
    if len(tensors) == 1 or len({tensor.shape for tensor in tensors}) > 1:
        return tensors[0]
    return torch.cat(list(tensors))  # query, key and value, one below the other


def _from_archive(tensor: Tensor, wanted: torch.Size) -> Tensor:
    """An array of a vision transformer's archive with the axes of PyTorch; of a wrong shape where it does not fit.

    Convolutions lie there as (rows, columns, in, out), dense layers as (in, out) of which one may be split into
    (heads, d), scales of the stem's norms as (1, 1, 1, channels).
    """
    if len(wanted) == 4 and tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    if len(wanted) == 2 and tensor.ndim >= 2:
        split_out = tensor.shape[0] == wanted[1]  # else the inputs are
        return (tensor.flatten(1) if split_out else tensor.flatten(0, -2)).t().contiguous()
    return tensor.flatten() if len(wanted) == 1 else tensor


def _adapted(name: str, value: Tensor, ours: Weights, layout: Layout, grid: tuple[int, int]) -> Tensor:
    """The value for our grid of tokens, if it is the position embedding, and for our number of input channels."""
    if name == POSITIONS and value.ndim == 3:
        if layout == "archive" and not _is_square(value.shape[1]):
            value = value[:, 1:]  # the first one is that of the class token
        side = isqrt(value.shape[1])
        return resize_positions(value, (side, side), grid) if _is_square(value.shape[1]) else value
    sees_the_image = name == (ROOT if ROOT in ours else PATCHES)
    return with_channels(value, ours[name].shape[1]) if sees_the_image and value.ndim == 4 else value


def _is_square(tokens: int) -> bool:
    return isqrt(tokens) ** 2 == tokens


def _refuse(wrong: Sequence[str]) -> None:
    """Raise InvalidWeights that names what is wrong, if anything is."""
    if wrong:
        rest = f"; and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise InvalidWeights(
            f"the weights must fill the network and nothing may be left over; {'; '.join(wrong[:MOST_NAMED])}{rest}; "
            f"is it a file of another size? A head of other classes is left out with a fresh head"
        )
