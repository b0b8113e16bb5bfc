from dataclasses import replace
from math import exp, sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib.core.errors import InvalidSettings, InvalidVolume
from lib.networks.config import SIZES, NetworkConfig
from lib.networks.resnet import Bottleneck, StandardisedConv2d, Stem, standardise
from lib.networks.transunet import Attention, TransUNet, Upsampler, resize_positions

TINY = NetworkConfig(size="tiny", context_slices=1, dropout=0.0)


@pytest.fixture
def network() -> TransUNet:
    torch.manual_seed(0)
    return TransUNet(TINY, in_channels=3, classes=4).eval()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_base_size_has_the_105_million_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        network = TransUNet(NetworkConfig(size="base", context_slices=1), in_channels=3, classes=9)
    assert parameters(network) == 105_277_081
    assert parameters(network.transformer.blocks) == 85_054_464  # ViT-B: 12 blocks of 7.09 million
    assert network.stride == 16


@pytest.mark.parametrize(
    ("size", "expected", "stride"),
    [
        ("small", 3_421_060, 8),
        ("large", 324_024_729, 16),
        ("vit-tiny", 6_372_249, 16),
        ("vit-b16", 91_674_201, 16),
        ("vit-l16", 310_356_313, 16),
    ],
)
def test_the_other_sizes_have_as_many_parameters_as_their_parts(size: str, expected: int, stride: int) -> None:
    with torch.device("meta"):
        network = TransUNet(NetworkConfig(size=size), in_channels=3, classes=9)
    assert parameters(network) == expected
    assert network.stride == stride
    sizes = SIZES[size]
    attention = 4 * (sizes.hidden**2 + sizes.hidden)
    mlp = 2 * sizes.hidden * sizes.mlp + sizes.mlp + sizes.hidden
    assert parameters(network.transformer.blocks) == sizes.layers * (attention + mlp + 4 * sizes.hidden)


def test_the_tiny_size_has_between_a_third_and_one_million_parameters(network: TransUNet) -> None:
    assert 300_000 < parameters(network) < 1_000_000
    assert network.stride == 8


def test_standardised_kernels_equal_the_hand_computed_ones() -> None:
    kernel = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # mean 2.5, variance 1.25
    expected = (kernel - 2.5) / sqrt(1.25 + 1e-5)
    torch.testing.assert_close(standardise(kernel), expected)


def test_a_standardised_convolution_does_not_see_the_scale_and_offset_of_its_kernels() -> None:
    torch.manual_seed(1)
    convolution = StandardisedConv2d(2, 5, kernel=3)
    images = torch.randn(1, 2, 6, 6)
    before = convolution(images)
    convolution.weight.data.mul_(3.0).add_(0.7)
    torch.testing.assert_close(convolution(images), before, atol=1e-3, rtol=1e-3)


def test_attention_equals_the_plain_matrix_formula() -> None:
    torch.manual_seed(2)
    attention = Attention(hidden=12, heads=3)
    tokens = torch.randn(2, 7, 12)
    query, key, value = F.linear(tokens, attention.qkv.weight, attention.qkv.bias).split(12, dim=-1)
    mixed = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        weights = torch.softmax(query[..., part] @ key[..., part].transpose(1, 2) / sqrt(4), dim=-1)
        mixed.append(weights @ value[..., part])
    expected = F.linear(torch.cat(mixed, dim=-1), attention.out.weight, attention.out.bias)
    torch.testing.assert_close(attention(tokens), expected)


def test_attention_weights_by_hand() -> None:
    attention = Attention(hidden=2, heads=1)
    nn.init.zeros_(attention.qkv.bias)
    attention.qkv.weight.data = torch.cat([torch.eye(2)] * 3)  # queries, keys and values are the tokens
    weights = attention.weights(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    near, far = exp(1 / sqrt(2)), 1.0  # scores 1 and 0, divided by the root of d = 2
    expected = torch.tensor([[near, far], [far, near]]) / (near + far)
    torch.testing.assert_close(weights[0, 0], expected)


def test_attention_maps_agree_with_the_fast_path(network: TransUNet) -> None:
    images = torch.randn(2, 3, 24, 40)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in network.transformer.blocks:
        block.attention.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.inference_mode():
        network(images)
        maps = network.attention_maps(images)
        for block, weights, (tokens, output) in zip(network.transformer.blocks, maps, seen, strict=False):
            attention = block.attention
            values = F.linear(tokens, attention.qkv.weight, attention.qkv.bias)[..., 192:]
            mixed = weights @ values.unflatten(-1, (4, 24)).transpose(1, 2)  # (B, heads, N, d)
            torch.testing.assert_close(attention.out(mixed.transpose(1, 2).flatten(2)), output, atol=1e-5, rtol=1e-4)
    assert [tuple(weights.shape) for weights in maps] == [(2, 4, 15, 15)] * 3
    torch.testing.assert_close(maps[2].sum(-1), torch.ones(2, 4, 15))


def test_a_position_embedding_of_the_same_grid_comes_back_unchanged() -> None:
    positions = torch.randn(1, 12, 5)
    assert torch.equal(resize_positions(positions, (3, 4), (3, 4)), positions)


def test_a_resized_position_embedding_keeps_rows_and_columns_apart() -> None:
    row_number = torch.arange(4.0).repeat_interleave(6)  # tokens run row by row
    resized = resize_positions(row_number.view(1, 24, 1), (4, 6), (4, 12)).view(4, 12)
    torch.testing.assert_close(resized, torch.arange(4.0)[:, None].expand(4, 12), atol=1e-4, rtol=0)


def test_a_bottleneck_whose_last_norm_is_zero_is_its_shortcut() -> None:
    block = Bottleneck(8, 8, groups=4)
    nn.init.zeros_(block.expand_norm.weight)
    features = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(features), features.relu())


def test_tokens_lie_row_by_row_and_the_decoder_puts_them_back(network: TransUNet) -> None:
    network.transformer.blocks = nn.ModuleList()
    network.transformer.norm = nn.LayerNorm(96, elementwise_affine=False)
    nn.init.zeros_(network.transformer.positions)
    images = torch.randn(1, 3, 24, 40)
    projected = F.layer_norm(network.transformer.project(network.stem(images)[0]).permute(0, 2, 3, 1), (96,))
    encoding = network.encode(images)
    assert encoding.grid == (3, 5)
    torch.testing.assert_close(encoding.tokens[0, 5 * 2 + 3], projected[0, 2, 3])
    seen: list[Tensor] = []
    network.upsampler.entry.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.decode(encoding)
    torch.testing.assert_close(seen[0], projected.permute(0, 3, 1, 2))


def test_the_head_without_all_steps_makes_each_block_of_pixels_from_one_position() -> None:
    sizes = replace(SIZES["tiny"], stem_channels=4, stage_channels=(4, 4), hidden=4, decoder_channels=(4, 4, 4))
    upsampler = Upsampler(sizes, classes=2)
    nn.init.zeros_(upsampler.head.weight)
    upsampler.head.bias.data = torch.arange(8.0)  # 2 classes x 2 x 2 pixels
    logits = upsampler(torch.randn(1, 4, 2, 2), [torch.randn(1, 4, 4, 4), torch.randn(1, 4, 8, 8)])
    assert logits.shape == (1, 2, 16, 16)
    assert logits[0, 0, :2, :2].tolist() == [[0, 1], [2, 3]]
    assert logits[0, 1, -2:, -2:].tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize(("rows", "columns"), [(8, 16), (24, 40), (136, 128)])
def test_any_size_that_the_stride_divides_gives_logits_of_that_size(
    network: TransUNet, rows: int, columns: int
) -> None:
    with torch.inference_mode():
        logits, embedding = network.segment(torch.randn(2, 3, rows, columns))
    assert logits.shape == (2, 4, rows, columns)
    assert embedding.shape == (2, 96)
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize(("size", "rows", "columns"), [("small", 16, 40), ("vit-tiny", 32, 48)])
def test_sizes_take_any_number_of_channels_and_rectangles(size: str, channels: int, rows: int, columns: int) -> None:
    torch.manual_seed(0)
    network = TransUNet(NetworkConfig(size=size), channels, classes=3).eval()
    images = torch.randn(1, channels, rows, columns)
    with torch.inference_mode():
        logits, embedding = network.segment(images)
        changed = images.clone()
        changed[:, -1] += 1.0
        assert not torch.equal(network(changed), logits)  # the last channel is seen
    assert logits.shape == (1, 3, rows, columns)
    assert embedding.shape == (1, 192)


def test_a_pure_transformer_projects_patches_and_has_no_skips() -> None:
    torch.manual_seed(0)
    network = TransUNet(NetworkConfig(size="vit-tiny"), in_channels=2, classes=3).eval()
    images = torch.randn(1, 2, 32, 48)
    assert network.stem is None
    project, positions = network.transformer.project, network.transformer.positions
    nn.init.zeros_(positions)
    patch = images[0, :, 16:32, 32:48]  # the last of 2 x 3
    expected = (project.weight * patch).sum(dim=(1, 2, 3)) + project.bias
    torch.testing.assert_close(network.transformer.embed(images)[0, 5], expected, atol=1e-4, rtol=1e-4)
    assert network.encode(images).skips == ()
    assert network.encode(images).grid == (2, 3)


def test_the_published_stem_pads_its_pooled_features_with_zeros_at_the_end() -> None:
    sizes = replace(SIZES["base"], stem_channels=4, stage_channels=(8, 8), stage_blocks=(1, 1), norm_groups=2)
    torch.manual_seed(0)
    stem = Stem(sizes, in_channels=1)
    deepest, skips = stem(torch.randn(1, 1, 32, 48))
    assert [tuple(skip.shape[-2:]) for skip in (deepest, *skips)] == [(4, 6), (8, 12), (16, 24)]
    assert skips[0][..., -1, :].abs().sum() == 0
    assert skips[0][..., -1].abs().sum() == 0
    assert (deepest != 0).any(dim=1)[0, -1].any()
    whole, skips = Stem(replace(sizes, pool_padding=1), in_channels=1)(torch.randn(1, 1, 32, 48))
    assert tuple(whole.shape[-2:]) == (4, 6)
    assert skips[0][..., -1, :].abs().sum() > 0


@pytest.mark.parametrize(("rows", "columns"), [(24, 30), (8, 8)])
def test_a_size_that_the_stride_does_not_divide_is_refused_with_both_numbers(
    network: TransUNet, rows: int, columns: int
) -> None:
    with pytest.raises(InvalidVolume, match=f"multiples of 8 with two tokens or more, got {rows} x {columns}"):
        network(torch.zeros(1, 3, rows, columns))


def test_a_slice_does_not_see_the_others_of_its_batch(network: TransUNet) -> None:
    images = torch.randn(3, 3, 16, 16)
    network.train()  # group norm everywhere: not even in training
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]), atol=1e-5, rtol=1e-4)


def test_every_parameter_takes_part_in_the_result(network: TransUNet) -> None:
    network(torch.randn(2, 3, 16, 16)).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_the_base_size_runs_with_the_published_batch_norm_and_three_skips() -> None:
    sizes = replace(
        SIZES["base"],
        stem_channels=8,
        stage_channels=(16, 24, 32),
        stage_blocks=(1, 1, 1),
        hidden=12,
        layers=1,
        heads=2,
    )
    shrunk = replace(sizes, decoder_channels=(16, 16, 12, 8, 8), mlp=16, norm_groups=8)
    upsampler = Upsampler(shrunk, classes=3)
    assert upsampler.subpixels == 1
    assert sum(isinstance(m, nn.BatchNorm2d) for m in upsampler.modules()) == 9
    skips = [torch.randn(2, c, s, s) for c, s in ((24, 4), (16, 8), (8, 16))]
    assert upsampler(torch.randn(2, 12, 2, 2), skips).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "one of tiny, small, base, large, vit-tiny, vit-b16, vit-l16, got 'huge'"),
        ({"context_slices": 9}, "0 to 3, got 9"),
        ({"dropout": 1.0}, "below 1, got 1.0"),
        ({"channels": (8, 16)}, r"network.channels must be left out with transunet, got \(8, 16\)"),
        ({"parts": "encoder"}, "network.parts of transunet must be both, got 'encoder'"),
        ({"strides": ((2, 2, 2),)}, r"name a patch, got \(\(2, 2, 2\),\)"),
    ],
)
def test_a_wrong_option_is_refused_with_what_came(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        NetworkConfig(**options)  # type: ignore[arg-type]
