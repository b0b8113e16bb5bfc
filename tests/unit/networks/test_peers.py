from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib.core.errors import InvalidSettings, InvalidVolume
from lib.networks.build import build
from lib.networks.config import NetworkConfig, config_stride
from lib.networks.network import Network
from lib.networks.peer_networks import DynUNetPeer, UnetrPeer, resize_positions
from overfitting import overfit, two_cases

KINDS = ("dynunet", "unet", "attentionunet", "segresnet", "swinunetr", "unetr")
PATCHES = {"swinunetr": (32, 64, 32), "unetr": (16, 32, 32)}
PATCH = (8, 16, 16)


def config(kind: str, dimensions: int, **changes: object) -> NetworkConfig:
    """The smallest of its kind, for patches or for single slices."""
    values: dict[str, object] = {"kind": kind, "dropout": 0.0, "context_slices": 0}
    if kind in ("dynunet", "unet", "attentionunet"):
        values["channels"] = (4, 8, 8)
    if dimensions == 3:
        values["patch"] = PATCHES.get(kind, PATCH)
    return NetworkConfig(**{**values, **changes})  # type: ignore[arg-type]


def images_for(config: NetworkConfig, batch: int = 2) -> Tensor:
    sides = config.patch or tuple(2 * side for side in config_stride(config)[1:])
    return torch.randn(batch, config.in_channels, *sides)


def network(chosen: NetworkConfig, classes: int = 3) -> Network:
    torch.manual_seed(0)
    return build(chosen, classes).eval()


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_three_ways_to_ask_agree_and_repeat_themselves(kind: str, dimensions: int) -> None:
    chosen = config(kind, dimensions, dropout=0.3)
    asked, images = network(chosen), images_for(chosen)
    with torch.inference_mode():
        logits, embedding = asked.segment(images)
        assert torch.equal(logits, asked(images))
        assert torch.equal(logits, asked.supervised(images)[0])
    assert logits.shape == (2, 3, *images.shape[2:])
    assert logits.std() > 0
    assert embedding.shape[0] == 2
    assert embedding.ndim == 2
    assert embedding.std() > 0


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_every_parameter_and_weights_come_back_from_a_state_dict(kind: str, dimensions: int) -> None:
    chosen = config(kind, dimensions)
    trained, images = network(chosen).train(), images_for(chosen)
    losses = [F.cross_entropy(o, torch.randint(0, 3, (2, *o.shape[2:]))) for o in trained.supervised(images)]
    torch.stack(losses).sum().backward()
    assert [name for name, p in trained.named_parameters() if p.grad is None] == []
    again = build(chosen, 3)
    again.load_state_dict(trained.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(again.eval()(images), trained.eval()(images))


@pytest.mark.parametrize("kind", KINDS)
def test_three_slices_enter_as_channels(kind: str) -> None:
    chosen = config(kind, 2, context_slices=1)
    images = images_for(chosen, batch=1)
    assert images.shape[1] == 3
    assert network(chosen)(images).shape == (1, 3, *images.shape[2:])


@pytest.mark.parametrize(
    ("kind", "multiples"),
    [
        ("dynunet", (2, 4, 4)),
        ("unet", (2, 4, 4)),
        ("attentionunet", (2, 4, 4)),
        ("segresnet", (8, 8, 8)),
        ("swinunetr", (32, 32, 32)),
        ("unetr", (16, 16, 16)),
    ],
)
def test_images_of_other_sizes_are_taken_or_refused_as_the_multiples_say(
    kind: str, multiples: tuple[int, int, int]
) -> None:
    chosen = config(kind, 3)
    asked = network(chosen)
    assert config_stride(chosen) == multiples
    slices, rows, columns = multiples
    with torch.inference_mode():
        assert asked(torch.randn(1, 1, slices, rows, 2 * columns)).shape == (1, 3, slices, rows, 2 * columns)
    with pytest.raises(InvalidVolume, match="must be multiples of"):
        asked(torch.zeros(1, 1, slices, rows + 1, 2 * columns))
    with pytest.raises(InvalidVolume, match="and larger"):
        asked(torch.zeros(1, 1, *multiples))


@pytest.mark.parametrize("kind", ["dynunet", "unet", "attentionunet"])
def test_planned_peers_take_anisotropic_strides(kind: str) -> None:
    chosen = config(kind, 3, patch=(5, 16, 16), strides=((1, 2, 2), (1, 2, 2)))
    assert network(chosen)(torch.randn(1, 1, 5, 16, 16)).shape == (1, 3, 5, 16, 16)


def test_a_network_asked_from_many_threads_gives_each_its_own_embedding() -> None:
    asked = network(config("unet", 2))
    images = [torch.randn(1, 1, 16, 16) for _ in range(16)]

    def ask(image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return asked.segment(image)

    alone = [ask(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, images))
    for (logits, embedding), (logits_then, embedding_then) in zip(alone, together, strict=True):
        torch.testing.assert_close(logits_then, logits)
        torch.testing.assert_close(embedding_then, embedding)


def test_a_copy_of_a_network_still_gives_embeddings() -> None:
    asked = network(config("segresnet", 2))
    images = torch.randn(1, 1, 16, 16)
    assert torch.equal(deepcopy(asked).segment(images)[1], asked.segment(images)[1])


def dynunet_of_monai() -> nn.Module:
    from monai.networks.nets.dynunet import DynUNet

    return DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[4, 8, 12, 16])


def unetr_of_monai() -> nn.Module:
    from monai.networks.nets.unetr import UNETR

    return UNETR(1, 3, (16, 16, 16), feature_size=4, hidden_size=24, mlp_dim=24, num_heads=2)


@pytest.mark.parametrize(
    ("make", "wrap"),
    [
        (dynunet_of_monai, lambda module: DynUNetPeer(module, (8, 8, 8), deep_supervision=True)),
        (unetr_of_monai, lambda module: UnetrPeer(module, (1, 1, 1))),
    ],
)
def test_the_forward_of_a_split_network_is_that_of_monai(
    make: Callable[[], nn.Module], wrap: Callable[[nn.Module], Network]
) -> None:
    torch.manual_seed(1)
    module = make().eval()
    images = torch.randn(2, 1, 16, 16, 16)
    torch.testing.assert_close(wrap(module)(images), module(images))


@pytest.mark.parametrize(("grid", "wanted"), [((3, 2), (3, 5)), ((2, 3, 4), (5, 3, 2))])
def test_positions_of_a_token_grid_follow_its_axes_to_another_grid(
    grid: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    def rows(sides: tuple[int, ...]) -> Tensor:
        numbers = torch.arange(3.0).view(3, 1) if len(sides) == 2 else torch.arange(3.0).view(1, 3, 1)
        return numbers.expand(sides).reshape(1, -1, 1)

    torch.testing.assert_close(resize_positions(rows(grid), grid, wanted), rows(wanted))


def test_the_dynunet_is_supervised_on_all_but_the_two_coarsest_levels() -> None:
    chosen = config("dynunet", 3, patch=(32, 32, 32), channels=(4, 4, 4, 4), strides=((2, 2, 2),) * 3)
    images = torch.randn(1, 1, 32, 32, 32)
    assert [o.shape[-1] for o in network(chosen).supervised(images)] == [32, 16]
    alone = config("dynunet", 3, patch=(32, 32, 32), channels=(4, 4, 4, 4), deep_supervision=False)
    assert [o.shape[-1] for o in network(alone).supervised(images)] == [32]


def test_the_small_dynunet_has_nnunets_shape_with_half_its_channels() -> None:
    chosen = NetworkConfig(kind="dynunet", size="small", patch=(40, 56, 40))
    assert 1_350_000 < sum(p.numel() for p in build(chosen, 3).parameters()) < 1_450_000


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("swinunetr", {"patch": (40, 56, 40)}, r"multiples of \(32, 32, 32\).*got \(40, 56, 40\); take \(64, 64, 64\)"),
        ("unetr", {"patch": (16, 16, 16)}, r"larger than \(16, 16, 16\)"),
        ("swinunetr", {"channels": (10,)}, "multiple of 12, got 10"),
        ("segresnet", {"channels": (8, 16)}, r"of segresnet must be one number, .*got \(8, 16\)"),
        ("unetr", {"strides": ((2, 2, 2),)}, r"network.strides must be left out with unetr, got \(\(2, 2, 2\),\)"),
        ("unet", {"parts": "decoder"}, "network.parts of unet must be both, got 'decoder'"),
        (
            "unet",
            {"patch": None, "channels": (8, 16)},
            r"needs network.channels of three stages or more, got \(8, 16\)",
        ),
        ("dynunet", {"channels": (8, 8)}, r"must be 3 numbers for 2 strides, got \(8, 8\)"),
        ("dynunet", {"patch": (7, 7, 7)}, r"can be halved twice, got \(7, 7, 7\)"),
    ],
)
def test_what_a_network_cannot_be_is_refused_with_what_came(
    kind: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        build(config(kind, 3, **changes), 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "channels", "steps", "rate"),
    [
        ("dynunet", (8, 16, 16), 200, 1e-2),
        ("unet", (8, 16, 16), 200, 1e-2),
        ("attentionunet", (16, 16, 16), 200, 2e-2),
        ("segresnet", (8,), 150, 1e-2),
        ("swinunetr", (12,), 120, 1e-2),
        ("unetr", (16,), 250, 5e-3),
    ],
)
def test_two_cases_are_learned_by_heart(kind: str, channels: tuple[int, ...], steps: int, rate: float) -> None:
    chosen = config(kind, 2, channels=channels)
    sides = tuple(max(32, 2 * side) for side in config_stride(chosen)[1:])
    images, classes = two_cases(*sides)
    assert overfit(network(chosen), images, classes, steps, rate) > 0.98
