from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import lib.networks.config
from lib.core.errors import InvalidWeights
from lib.networks.config import SIZES, Architecture, NetworkConfig
from lib.networks.pretrained import Imported, classes_of, convert, layout_of, with_channels
from lib.networks.transunet import TransUNet
from reference_transunet import BASE, Layout, Reference, archive_of, reference

HYBRID = Layout(8, (2, 1, 2), 4, 24, 2, 3, 32, 4, 1, 20, (16, 12, 8, 8), 3)
PURE = Layout(0, (), 0, 24, 2, 3, 32, 4, 16, 20, (16, 12, 8, 8), 3)
LAYOUTS = pytest.mark.parametrize("layout", [HYBRID, PURE], ids=["hybrid", "pure"])


def sizes_of(layout: Layout) -> Architecture:
    return replace(
        SIZES["base"],
        stem_channels=layout.width,
        stage_channels=tuple(layout.width * 4 * 2**n for n in range(len(layout.blocks))),
        stage_blocks=layout.blocks,
        norm_groups=layout.groups,
        hidden=layout.hidden,
        layers=layout.layers,
        heads=layout.heads,
        mlp=layout.mlp,
        position_grid=(layout.grid, layout.grid),
        decoder_channels=(layout.head_channels, *layout.decoder),
        patch=layout.patch,
    )


class Ours:
    """Makes our network of a layout, with weights of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, layout: Layout, channels: int = 3, classes: int = 3) -> TransUNet:
        sizes = {**SIZES, "tiny": sizes_of(layout)}
        self.monkeypatch.setattr(lib.networks.config, "SIZES", sizes)
        torch.manual_seed(7)
        return TransUNet(NetworkConfig(size="tiny"), channels, classes).eval()


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Ours:
    return Ours(monkeypatch)


def filled(network: TransUNet, foreign: dict[str, Tensor], head: str = "same") -> Imported:
    imported = convert(foreign, network.state_dict(), network.transformer.grid, head)  # type: ignore[arg-type]
    network.load_state_dict(imported.state)
    return imported


@LAYOUTS
def test_with_the_weights_of_the_reference_the_logits_are_its_logits(layout: Layout, ours: Ours) -> None:
    theirs, network = reference(layout), ours(layout)
    imported = filled(network, theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected, got = theirs(images), network(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert (imported.fresh, imported.unused, imported.changes) == ((), (), ())
    assert {source for found in imported.sources.values() for source in found} == set(theirs.state_dict())


@LAYOUTS
@pytest.mark.parametrize("class_token", [True, False])
def test_an_archive_fills_the_encoder_alike_and_leaves_the_decoder(
    layout: Layout, class_token: bool, ours: Ours
) -> None:
    theirs, network = reference(layout), ours(layout)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    imported = filled(network, archive_of(theirs, class_token))
    assert imported.unused == ("cls", "head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel")
    assert set(imported.fresh) == {name for name in before if name.startswith("upsampler.")}
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in imported.fresh)
    whole = convert(theirs.state_dict(), before, network.transformer.grid)
    network.load_state_dict({**imported.state, **{name: whole.state[name] for name in imported.fresh}})
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), theirs(images), atol=1e-4, rtol=0)


def test_the_full_base_size_takes_every_tensor_of_the_reference_by_name_and_shape() -> None:
    with torch.device("meta"):
        theirs = Reference(BASE)
        network = TransUNet(NetworkConfig(size="base"), in_channels=3, classes=9)
    whole = convert(theirs.state_dict(), network.state_dict(), (14, 14))
    assert sum(p.numel() for p in theirs.parameters()) == 105_277_081
    assert len(theirs.state_dict()) == 409
    assert (whole.fresh, whole.unused, whole.changes) == ((), (), ())
    archive = convert(archive_of(theirs), network.state_dict(), (14, 14))
    assert all(name.startswith("upsampler.") for name in archive.fresh)


def test_what_is_missing_unknown_or_of_another_shape_is_named_in_one_error(ours: Ours) -> None:
    foreign = reference(HYBRID).state_dict()
    del foreign["transformer.encoder.layer.1.attn.key.weight"]
    foreign["transformer.embeddings.hybrid_model.body.block4.unit1.conv1.weight"] = torch.zeros(2, 2, 1, 1)
    foreign["decoder.conv_more.0.weight"] = torch.zeros(20, 24, 1, 1)
    with pytest.raises(InvalidWeights) as caught:
        filled(ours(HYBRID), foreign)
    message = str(caught.value)
    missing = "transformer.blocks.1.attention.qkv.weight needs transformer.encoder.layer.1.attn.key.weight"
    assert missing in message
    assert "block4.unit1.conv1.weight (2, 2, 1, 1) belongs to nothing here" in message
    assert (
        "upsampler.entry.0.weight (20, 24, 3, 3) cannot come from decoder.conv_more.0.weight (20, 24, 1, 1)" in message
    )


@pytest.mark.parametrize("name", ["MlpBlock_3/Dense_0", "MlpBlock_3/Dense_1"])
def test_a_dense_layer_of_an_archive_with_its_axes_the_other_way_round_is_refused(name: str, ours: Ours) -> None:
    foreign = archive_of(reference(PURE))
    kernel = f"Transformer/encoderblock_0/{name}/kernel"
    foreign[kernel] = foreign[kernel].t()
    with pytest.raises(InvalidWeights, match=f"cannot come from {kernel}"):
        filled(ours(PURE), foreign)


def test_a_head_of_other_classes_is_refused_unless_a_fresh_one_is_asked_for(ours: Ours) -> None:
    foreign, network = reference(HYBRID).state_dict(), ours(HYBRID, classes=5)
    mine = network.upsampler.head.weight.detach().clone()
    with pytest.raises(InvalidWeights, match=r"upsampler.head.weight \(5, 8, 3, 3\) cannot come .* \(3, 8, 3, 3\)"):
        filled(network, foreign)
    imported = filled(network, foreign, head="fresh")
    assert imported.fresh == ("upsampler.head.weight", "upsampler.head.bias")
    assert imported.unused == ("segmentation_head.0.bias", "segmentation_head.0.weight")
    assert torch.equal(network.upsampler.head.weight, mine)


def test_a_position_embedding_of_another_grid_is_resized_and_said_so(ours: Ours) -> None:
    theirs = reference(replace(HYBRID, grid=6))
    rows = torch.arange(6.0).repeat_interleave(6)
    theirs.transformer.embeddings.position_embeddings.data = rows.view(1, 36, 1).expand(1, 36, 24).clone()
    for foreign in (theirs.state_dict(), archive_of(theirs)):
        network = ours(HYBRID)
        imported = filled(network, foreign)
        got = network.transformer.positions[0, :, 0].view(4, 4)
        torch.testing.assert_close(got, got[:, :1].expand(4, 4), atol=1e-5, rtol=0)
        assert got.mean().item() == pytest.approx(2.5, abs=1e-4)
        assert len(imported.changes) == 1
        assert "transformer.positions (1, 16, 24) made from" in imported.changes[0]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_pure_transformer_sees_the_same_in_equal_channels_however_many_there_are(channels: int, ours: Ours) -> None:
    theirs, network = reference(PURE), ours(PURE, channels=channels)
    imported = filled(network, theirs.state_dict())
    gray = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        got, expected = network(gray.expand(-1, channels, -1, -1)), theirs(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert len(imported.changes) == 1


def test_kernels_for_other_channels_share_the_sum_of_the_given_ones() -> None:
    kernels = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    assert with_channels(kernels, 1).flatten().tolist() == [9.0]
    assert with_channels(kernels, 2).flatten().tolist() == [4.5, 4.5]
    assert with_channels(kernels, 3) is kernels


def test_weights_of_something_else_are_refused_with_some_of_their_names() -> None:
    with pytest.raises(InvalidWeights, match=r"got conv1\.weight, fc\.bias"):
        layout_of({"fc.bias": torch.zeros(1), "conv1.weight": torch.zeros(1)})
    with pytest.raises(InvalidWeights, match=r"nothing is known of layer\.weight"):
        convert(reference(PURE).state_dict(), nn.ModuleDict({"layer": nn.Linear(1, 1)}).state_dict(), (4, 4))


def test_the_number_of_classes_is_that_of_the_head() -> None:
    assert classes_of(reference(PURE).state_dict()) == 3
    assert classes_of(archive_of(reference(PURE))) is None
