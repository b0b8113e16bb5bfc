"""TransUNet once more, written from the published description with the parameter names of its reference release.

Nothing of the networks under test is used here: the parity tests compare two independent implementations. Square images
only, as in the reference; `Layout` holds the numbers of a size.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Layout:
    """The numbers of a size; `blocks` = () leaves the residual stem out."""

    width: int
    blocks: tuple[int, ...]
    groups: int
    hidden: int
    layers: int
    heads: int
    mlp: int
    grid: int
    patch: int
    head_channels: int
    decoder: tuple[int, ...]
    classes: int


BASE = Layout(64, (3, 4, 9), 32, 768, 12, 12, 3072, 14, 1, 512, (256, 128, 64, 16), 9)


class Std(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        flat = self.weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return F.conv2d(input, flat.view_as(self.weight), None, self.stride, self.padding)


class Unit(nn.Module):
    def __init__(self, before: int, after: int, groups: int, stride: int) -> None:
        super().__init__()
        middle = after // 4
        self.gn1 = nn.GroupNorm(groups, middle, eps=1e-6)
        self.conv1 = Std(before, middle, 1, bias=False)
        self.gn2 = nn.GroupNorm(groups, middle, eps=1e-6)
        self.conv2 = Std(middle, middle, 3, stride, padding=1, bias=False)
        self.gn3 = nn.GroupNorm(groups, after, eps=1e-6)
        self.conv3 = Std(middle, after, 1, bias=False)
        self.projects = stride != 1 or before != after
        if self.projects:
            self.downsample = Std(before, after, 1, stride, bias=False)
            self.gn_proj = nn.GroupNorm(after, after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gn1(self.conv1(x)).clamp(min=0)
        y = self.gn2(self.conv2(y)).clamp(min=0)
        y = self.gn3(self.conv3(y))
        return ((self.gn_proj(self.downsample(x)) if self.projects else x) + y).clamp(min=0)


class Hybrid(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.root = nn.Module()
        self.root.conv = Std(3, layout.width, 7, 2, padding=3, bias=False)
        self.root.gn = nn.GroupNorm(layout.groups, layout.width, eps=1e-6)
        self.body = nn.Module()
        before = layout.width
        for number, units in enumerate(layout.blocks):
            after, block = layout.width * 4 * 2**number, nn.Module()
            for unit in range(units):
                stride = 2 if number and not unit else 1
                block.add_module(f"unit{unit + 1}", Unit(before, after, layout.groups, stride))
                before = after
            self.body.add_module(f"block{number + 1}", block)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        side = x.shape[-1]
        x = self.root.gn(self.root.conv(x)).clamp(min=0)
        skips = [x]
        x = F.max_pool2d(x, 3, 2)
        for number, block in enumerate(self.body.children()):
            for unit in block.children():
                x = unit(x)
            wanted = side // 4 // 2**number
            skip = torch.zeros(*x.shape[:2], wanted, wanted)
            skip[:, :, : x.shape[2], : x.shape[3]] = x
            skips.append(skip)
        return x, skips[-2::-1]


class Embeddings(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        channels = 3
        if layout.blocks:
            self.hybrid_model = Hybrid(layout)
            channels = layout.width * 2 ** (1 + len(layout.blocks))
        self.patch_embeddings = nn.Conv2d(channels, layout.hidden, layout.patch, layout.patch)
        self.position_embeddings = nn.Parameter(torch.randn(1, layout.grid**2, layout.hidden))


class Attn(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.heads = layout.heads
        for name in ("query", "key", "value", "out"):
            self.add_module(name, nn.Linear(layout.hidden, layout.hidden))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1] // self.heads
        mixed = []
        for head in range(self.heads):
            query, key, value = (
                layer(x)[..., head * size : (head + 1) * size] for layer in (self.query, self.key, self.value)
            )
            mixed.append(torch.softmax(query @ key.transpose(1, 2) / sqrt(size), -1) @ value)
        return self.out(torch.cat(mixed, -1))


class Layer(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(layout.hidden, eps=1e-6)
        self.ffn_norm = nn.LayerNorm(layout.hidden, eps=1e-6)
        self.ffn = nn.Module()
        self.ffn.fc1 = nn.Linear(layout.hidden, layout.mlp)
        self.ffn.fc2 = nn.Linear(layout.mlp, layout.hidden)
        self.attn = Attn(layout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attention_norm(x))
        y = self.ffn.fc1(self.ffn_norm(x))
        return x + self.ffn.fc2(0.5 * y * (1 + torch.erf(y / sqrt(2))))


def conv_norm_relu(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class Step(nn.Module):
    def __init__(self, before: int, skip: int, after: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(before + skip, after)
        self.conv2 = conv_norm_relu(after, after)


class Reference(nn.Module):
    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.transformer = nn.Module()
        self.transformer.embeddings = Embeddings(layout)
        self.transformer.encoder = nn.Module()
        self.transformer.encoder.layer = nn.ModuleList(Layer(layout) for _ in range(layout.layers))
        self.transformer.encoder.encoder_norm = nn.LayerNorm(layout.hidden, eps=1e-6)
        self.decoder = nn.Module()
        self.decoder.conv_more = conv_norm_relu(layout.hidden, layout.head_channels)
        widths = [layout.head_channels, *layout.decoder]
        skips = [layout.width * 8, layout.width * 4, layout.width, 0] if layout.blocks else [0] * 4
        self.decoder.blocks = nn.ModuleList(
            Step(before, skip, after) for before, skip, after in zip(widths, skips, layout.decoder, strict=False)
        )
        self.segmentation_head = nn.Sequential(nn.Conv2d(layout.decoder[-1], layout.classes, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        embeddings, skips = self.transformer.embeddings, []
        if self.layout.blocks:
            x, skips = embeddings.hybrid_model(x)
        x = embeddings.patch_embeddings(x).flatten(2).transpose(1, 2) + embeddings.position_embeddings
        for layer in self.transformer.encoder.layer:
            x = layer(x)
        x = self.transformer.encoder.encoder_norm(x).transpose(1, 2)
        x = self.decoder.conv_more(x.unflatten(2, (self.layout.grid, self.layout.grid)))
        for number, step in enumerate(self.decoder.blocks):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = torch.cat([x, skips[number]], 1) if number < len(skips) else x
            x = step.conv2(step.conv1(x))
        return self.segmentation_head(x)


def reference(layout: Layout, seed: int = 0) -> Reference:
    """In eval mode, every weight and buffer drawn, so that no norm is an identity."""
    torch.manual_seed(seed)
    network = Reference(layout).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point() and value.ndim == 1:
                value.add_(torch.randn_like(value), alpha=0.2)
    return network


class Archive:
    """Collects tensors of a state dict under the names, and with the axes, of a vision transformer's archive."""

    def __init__(self, network: Reference) -> None:
        self.state, self.found = network.state_dict(), dict[str, Tensor]()

    def norm(self, name: str, source: str, *ones: int) -> None:
        self.found[f"{name}/scale"] = self.state[f"{source}.weight"].reshape(*ones, -1)
        self.found[f"{name}/bias"] = self.state[f"{source}.bias"].reshape(*ones, -1)

    def kernel(self, name: str, source: str) -> None:
        self.found[f"{name}/kernel"] = self.state[f"{source}.weight"].permute(2, 3, 1, 0)

    def dense(self, name: str, source: str, kernel: tuple[int, ...] = (), bias: tuple[int, ...] = ()) -> None:
        weight, offset = self.state[f"{source}.weight"].t(), self.state[f"{source}.bias"]
        self.found[f"{name}/kernel"] = weight.reshape(kernel or weight.shape)
        self.found[f"{name}/bias"] = offset.reshape(bias or offset.shape)

    def stem(self, blocks: tuple[int, ...]) -> None:
        hybrid = "transformer.embeddings.hybrid_model"
        self.kernel("conv_root", f"{hybrid}.root.conv")
        self.norm("gn_root", f"{hybrid}.root.gn", 1, 1, 1)
        units = [(block + 1, unit + 1) for block, count in enumerate(blocks) for unit in range(count)]
        for block, unit in units:
            here, there = f"block{block}/unit{unit}", f"{hybrid}.body.block{block}.unit{unit}"
            for number in (1, 2, 3):
                self.kernel(f"{here}/conv{number}", f"{there}.conv{number}")
                self.norm(f"{here}/gn{number}", f"{there}.gn{number}", 1, 1, 1)
            if unit == 1:
                self.kernel(f"{here}/conv_proj", f"{there}.downsample")
                self.norm(f"{here}/gn_proj", f"{there}.gn_proj", 1, 1, 1)

    def layer(self, number: int, heads: int, hidden: int) -> None:
        here, there = f"Transformer/encoderblock_{number}", f"transformer.encoder.layer.{number}"
        attention, size = f"{here}/MultiHeadDotProductAttention_1", hidden // heads
        self.norm(f"{here}/LayerNorm_0", f"{there}.attention_norm")
        self.norm(f"{here}/LayerNorm_2", f"{there}.ffn_norm")
        for part in ("query", "key", "value"):
            self.dense(f"{attention}/{part}", f"{there}.attn.{part}", (hidden, heads, size), (heads, size))
        self.dense(f"{attention}/out", f"{there}.attn.out", (heads, size, hidden))
        self.dense(f"{here}/MlpBlock_3/Dense_0", f"{there}.ffn.fc1")
        self.dense(f"{here}/MlpBlock_3/Dense_1", f"{there}.ffn.fc2")


def archive_of(network: Reference, class_token: bool = True) -> dict[str, Tensor]:
    """The encoder's tensors as an archive holds them, with those for classification that nobody here needs."""
    layout, archive = network.layout, Archive(network)
    if layout.blocks:
        archive.stem(layout.blocks)
    archive.kernel("embedding", "transformer.embeddings.patch_embeddings")
    archive.found["embedding/bias"] = archive.state["transformer.embeddings.patch_embeddings.bias"]
    tokens = archive.state["transformer.embeddings.position_embeddings"]
    if class_token:
        tokens = torch.cat([torch.full_like(tokens[:, :1], 99.0), tokens], dim=1)
    archive.found["Transformer/posembed_input/pos_embedding"] = tokens
    for number in range(layout.layers):
        archive.layer(number, layout.heads, layout.hidden)
    archive.norm("Transformer/encoder_norm", "transformer.encoder.encoder_norm")
    archive.found["cls"] = torch.zeros(1, 1, layout.hidden)
    for name in ("head", "pre_logits"):
        archive.found[f"{name}/kernel"], archive.found[f"{name}/bias"] = torch.zeros(layout.hidden, 5), torch.zeros(5)
    return archive.found
