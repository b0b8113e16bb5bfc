from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from lib.core.errors import InvalidSettings, InvalidVolume
from lib.networks.build import build
from lib.networks.config import NetworkConfig, config_stride
from lib.networks.encoder3d import Attention, ConvNormReLU3d, TokenEncoder, UpBlock3d, fold, resize_positions, unfold
from lib.networks.query_decoder import QueryDecoder, sine_positions, visible
from lib.networks.sizes import SIZES_3D
from lib.networks.transunet3d import Plan, TransUNet3d
from overfitting import overfit, two_cases

PATCH = (16, 32, 32)
PARTS = ("both", "encoder", "decoder")
ANISOTROPIC = {"patch": (4, 32, 32), "strides": ((1, 2, 2), (1, 2, 2), (2, 2, 2))}


def config(**changes: object) -> NetworkConfig:
    values = {"kind": "transunet3d", "size": "tiny", "patch": PATCH, "dropout": 0.0, **changes}
    return NetworkConfig(**values)  # type: ignore[arg-type]


def network(classes: int = 3, **changes: object) -> TransUNet3d:
    torch.manual_seed(0)
    return TransUNet3d(config(**changes), classes).eval()


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_first_stride_is_folded_and_the_stages_have_the_rest() -> None:
    plan = Plan.of(config())
    assert plan.folded == (2, 2, 2)
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (1, 2, 2))
    assert plan.kernels == ((3, 3, 3),) * 3
    assert plan.channels == (16, 32, 64)
    assert config_stride(config()) == (4, 8, 8)


def test_the_base_size_has_nnunets_stages() -> None:
    plan = Plan.of(config(size="base", patch=(128, 128, 128)))
    assert plan.folded == (1, 1, 1)
    assert plan.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert plan.channels == (32, 64, 128, 256, 320, 320)


def test_the_sizes_have_half_a_million_three_and_forty_million_parameters() -> None:
    def size(name: str, patch: tuple[int, int, int]) -> int:
        return parameters(TransUNet3d(config(size=name, patch=patch), 3))

    assert 400_000 < size("tiny", (40, 56, 40)) < 600_000
    assert 2_000_000 < size("small", (40, 56, 40)) < 4_000_000
    assert 29_000_000 < size("base", (128, 128, 128)) < 50_000_000


def test_folding_keeps_each_block_of_voxels_together_and_unfolding_brings_it_back() -> None:
    images = torch.arange(2 * 4 * 6 * 2.0).view(1, 2, 4, 6, 2)
    folded = fold(images, (2, 3, 1))
    assert folded.shape == (1, 12, 2, 2, 2)
    assert folded[0, :6, 1, 0, 1].tolist() == images[0, 0, 2:4, 0:3, 1].flatten().tolist()
    assert torch.equal(unfold(folded, (2, 3, 1)), images)


def test_the_norm_of_a_convolution_is_instance_norm() -> None:
    torch.manual_seed(1)
    block = ConvNormReLU3d(2, 4, (1, 3, 3))
    images = torch.randn(2, 2, 3, 6, 6)
    expected = F.leaky_relu(F.instance_norm(block[0](images)), 0.01)
    torch.testing.assert_close(block(images), expected)
    assert expected.shape == (2, 4, 3, 6, 6)


def test_enlarging_equals_the_transposed_convolution_whose_kernel_is_its_stride() -> None:
    torch.manual_seed(2)
    block = UpBlock3d(6, 4, (3, 3, 3), (1, 2, 2), convolutions=1)
    features = torch.randn(2, 6, 3, 4, 5)
    kernels = block.enlarge.weight.view(4, 1, 2, 2, 6).permute(4, 0, 1, 2, 3)  # (in, out, 1, 2, 2)
    expected = F.conv_transpose3d(features, kernels, stride=(1, 2, 2))
    torch.testing.assert_close(unfold(block.enlarge(features), (1, 2, 2)), expected, atol=1e-5, rtol=1e-5)


def test_masked_attention_equals_the_plain_matrix_formula_over_what_is_seen() -> None:
    torch.manual_seed(3)
    attention = Attention(hidden=12, heads=3, memory=5)
    queries, memory, positions = torch.randn(2, 4, 12), torch.randn(2, 7, 5), torch.randn(1, 7, 12)
    seen = torch.rand(2, 4, 7) > 0.4
    seen[:, :, 0] = True
    q, k, v = attention.query(queries), attention.key(memory) + positions, attention.value(memory)
    mixed = []
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        scores = (q[..., part] @ k[..., part].transpose(1, 2) / sqrt(4)).masked_fill(~seen, -torch.inf)
        mixed.append(scores.softmax(dim=-1) @ v[..., part])
    expected = attention.out(torch.cat(mixed, dim=-1))
    torch.testing.assert_close(attention(queries, memory, positions, seen), expected)


def test_a_query_sees_where_its_class_is_likelier_than_by_chance() -> None:
    shares = torch.tensor([[[0.6, 0.2, 0.1], [0.3, 0.4, 0.1], [0.1, 0.4, 0.8]]])  # (B, classes, N)
    assert visible(shares.log()).tolist() == [
        [[True, False, False], [False, True, False], [False, True, True]],
    ]


def test_a_query_whose_class_is_nowhere_sees_everything() -> None:
    logits = torch.tensor([[[5.0, 5.0], [0.0, 0.0]]])
    assert visible(logits).tolist() == [[[True, True], [True, True]]]


def test_a_position_embedding_of_the_same_grid_comes_back_unchanged_and_others_keep_the_axes_apart() -> None:
    positions = torch.randn(1, 5, 2, 3, 4)
    assert resize_positions(positions, (2, 3, 4)) is positions
    rows = torch.arange(3.0).view(1, 1, 1, 3, 1).expand(1, 1, 2, 3, 4)
    resized = resize_positions(rows, (4, 3, 2))
    torch.testing.assert_close(resized, torch.arange(3.0).view(1, 1, 1, 3, 1).expand(1, 1, 4, 3, 2))


def test_sine_positions_are_half_waves_along_each_axis() -> None:
    positions = sine_positions(torch.zeros(1, 1, 2, 1, 4), 12).view(2, 1, 4, 12)
    quarter = torch.pi * torch.tensor([0.25, 0.75])  # centres of two slices
    torch.testing.assert_close(positions[:, 0, 0, 0], quarter.sin())
    torch.testing.assert_close(positions[:, 0, 0, 3], (2 * quarter).cos())
    assert torch.equal(positions[0, 0, :, :8], positions[0, 0, :1, :8].expand(4, 8))  # columns touch the last third
    assert positions[0, 0, :, 8:].unique(dim=0).shape[0] == 4


def test_the_queries_of_a_class_speak_as_the_mean_of_their_exponentials() -> None:
    torch.manual_seed(4)
    sizes = replace(SIZES_3D["tiny"], queries=2, mask_channels=4)
    decoder = QueryDecoder(sizes, 3, [6], 6, subvoxels=1, dropout=0.0)
    features = torch.randn(1, 4, 1, 1, 2)
    asked = decoder.ask(decoder.norm(decoder.queries))  # (6, E)
    likeness = asked @ features.flatten(2)[0] / 2  # sqrt of 4 features
    expected = torch.stack([likeness[2 * c : 2 * c + 2].exp().mean(0).log() for c in range(3)])
    torch.testing.assert_close(decoder.compare(decoder.queries[None], features)[0, :, 0, 0], expected)


def test_each_round_looks_at_a_finer_level_where_the_prediction_before_saw_its_class() -> None:
    torch.manual_seed(5)
    sizes = replace(SIZES_3D["tiny"], queries=2, mask_channels=4, rounds=3)
    decoder = QueryDecoder(sizes, 3, [6, 5], 5, subvoxels=2, dropout=0.0)
    levels = [torch.randn(2, 6, 1, 2, 2), torch.randn(2, 5, 2, 4, 4)]
    looks: list[tuple[torch.Tensor, ...]] = []
    for refine in decoder.rounds:
        refine.register_forward_pre_hook(lambda _, inputs: looks.append(inputs))
    final, *earlier = decoder(levels, levels[-1])
    assert final.shape == (2, 6, 2, 4, 4)  # 3 classes x 2 sub-voxels
    for (_, tokens, _, seen), logits, level in zip(looks, earlier[::-1], [*levels, levels[-1]], strict=True):
        assert torch.equal(tokens, level.flatten(2).transpose(1, 2))
        of_class = visible(logits.flatten(2))
        assert not of_class.all()
        assert torch.equal(seen[:, 0::2], of_class)  # both queries of a class see the same
        assert torch.equal(seen[:, 1::2], of_class)


def test_a_query_does_not_change_with_what_it_may_not_see() -> None:
    torch.manual_seed(6)
    refine = QueryDecoder(SIZES_3D["tiny"], 3, [6], 6, subvoxels=1, dropout=0.0).rounds[0]
    refine.exchange = nn.Identity()  # queries would tell each other
    queries, tokens, seen = torch.randn(1, 3, 48), torch.randn(1, 8, 6), torch.ones(1, 3, 8, dtype=torch.bool)
    seen[0, 0, 5] = False
    changed = tokens.clone()
    changed[0, 5] += 1.0
    before, after = (refine(queries, memory, torch.zeros(1, 8, 48), seen) for memory in (tokens, changed))
    torch.testing.assert_close(after[0, 0], before[0, 0])
    assert (after - before)[0, 1:].abs().amax(dim=1).min() > 1e-4


def test_tokens_of_nothing_leave_the_features_as_they_are() -> None:
    encoder = TokenEncoder(SIZES_3D["tiny"], 8, (2, 2, 2), dropout=0.0)
    nn.init.zeros_(encoder.out.weight)
    nn.init.zeros_(encoder.out.bias)
    features = torch.randn(1, 8, 2, 3, 2)
    assert torch.equal(encoder(features), features)


@pytest.mark.parametrize("parts", PARTS)
def test_supervised_gives_full_size_then_coarser_and_earlier_ones(parts: str) -> None:
    shapes = [tuple(logits.shape[1:]) for logits in network(4, parts=parts).supervised(torch.randn(1, 1, *PATCH))]
    levels = [(4, *PATCH), (4, 8, 16, 16), (4, 4, 8, 8)]
    assert shapes[:3] == levels
    assert shapes[3:] == ([] if parts == "encoder" else [*levels[1:], (4, 4, 4, 4)])


def test_the_base_size_supervises_no_second_full_size() -> None:
    small = {"size": "base", "channels": (4, 8, 8, 8), "patch": (16, 16, 16), "strides": ((2, 2, 2),) * 3}
    shapes = [
        tuple(logits.shape[2:]) for logits in network(parts="both", **small).supervised(torch.randn(1, 1, 16, 16, 16))
    ]
    assert shapes == [(16,) * 3, (8,) * 3, (4,) * 3, (8,) * 3, (4,) * 3, (2,) * 3]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("deep", [True, False])
def test_gradients_reach_every_parameter(parts: str, deep: bool) -> None:
    trained = network(parts=parts, deep_supervision=deep).train()
    outputs = trained.supervised(torch.randn(2, 1, *PATCH))
    assert len(outputs) == 1 or deep
    sum(F.cross_entropy(o, torch.randint(0, 3, (2, *o.shape[2:]))) for o in outputs).backward()  # type: ignore[union-attr]
    idle = [name for name, p in trained.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("parts", PARTS)
def test_the_three_ways_to_ask_agree_and_repeat_themselves(parts: str) -> None:
    asked = network(parts=parts, dropout=0.5)
    images = torch.randn(2, 1, *PATCH)
    with torch.inference_mode():
        logits, embedding = asked.segment(images)
        assert torch.equal(logits, asked(images))
        assert torch.equal(logits, asked.supervised(images)[0])
    assert embedding.shape == (2, 64)
    assert logits.std() > 0


def test_a_patch_does_not_see_the_others_of_its_batch() -> None:
    images = torch.randn(3, 1, *PATCH)
    asked = network().train()  # no norm looks across the batch: not even in training
    torch.testing.assert_close(asked(images)[1:2], asked(images[1:2]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("sides", [(8, 16, 24), (20, 40, 32), (4, 8, 16)])
def test_images_of_other_sizes_are_taken_when_the_strides_divide_them(sides: tuple[int, int, int]) -> None:
    with torch.inference_mode():
        logits, embedding = network().segment(torch.randn(1, 1, *sides))
    assert logits.shape == (1, 3, *sides)
    assert logits.isfinite().all()
    assert embedding.isfinite().all()


def test_other_sizes_are_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidVolume, match=r"multiples of \(4, 8, 8\) .*got \(16, 30, 32\)"):
        network()(torch.zeros(1, 1, 16, 30, 32))


@pytest.mark.parametrize("parts", PARTS)
def test_anisotropic_strides_leave_the_slices_whole(parts: str) -> None:
    plan = Plan.of(config(**ANISOTROPIC))
    assert plan.folded == (1, 2, 2)
    assert plan.kernels == ((1, 3, 3), (3, 3, 3), (3, 3, 3))
    shapes = [tuple(o.shape[2:]) for o in network(parts=parts, **ANISOTROPIC).supervised(torch.randn(1, 1, 4, 32, 32))]
    assert shapes[:3] == [(4, 32, 32), (4, 16, 16), (4, 8, 8)]


def test_a_patch_too_small_for_any_halving_has_one_stage() -> None:
    outputs = network(patch=(6, 7, 5)).supervised(torch.randn(1, 1, 6, 7, 5))
    assert {tuple(logits.shape[1:]) for logits in outputs} == {(3, 6, 7, 5)}


def test_weights_come_back_from_a_state_dict() -> None:
    first, second = network(), TransUNet3d(config(), 3).eval()
    second.load_state_dict(first.state_dict(), strict=True)
    images = torch.randn(1, 1, *PATCH)
    assert torch.equal(first(images), second(images))


def test_build_makes_it_and_wrong_channels_are_refused() -> None:
    assert isinstance(build(config(), 3), TransUNet3d)
    with pytest.raises(InvalidSettings, match=r"must be 3 numbers for the strides .*got \(8, 16\)"):
        build(config(channels=(8, 16)), 3)


def test_parts_that_there_are_not_are_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"of transunet3d must be one of both, encoder, decoder, got 'none'"):
        config(parts="none")


def test_a_patch_that_the_strides_do_not_divide_is_refused_with_one_that_they_do() -> None:
    with pytest.raises(
        InvalidSettings, match=r"multiples of \(4, 8, 8\) as its sides, got \(16, 33, 32\); take \(16, 40, 32\)"
    ):
        config(patch=(16, 33, 32))


@pytest.mark.parametrize(
    ("parts", "steps", "rate"), [("both", 250, 7e-3), ("encoder", 120, 1e-2), ("decoder", 150, 1e-2)]
)
def test_two_cases_are_learned_by_heart(parts: str, steps: int, rate: float) -> None:
    images, classes = two_cases(8, 16, 16)
    assert overfit(network(parts=parts, patch=(8, 16, 16)), images, classes, steps, rate) > 0.98
