from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import isfinite, log

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lib.core.errors import InvalidSettings
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Prediction, Volume
from lib.inference.config import PredictConfig, PreprocessConfig, UncertaintyConfig
from lib.inference.dropout import dropouts, thinned
from lib.inference.predictor import Predictor
from lib.inference.preprocess import Preprocess
from lib.inference.samples import Thinned, moments
from lib.networks.build import build
from lib.networks.config import NetworkConfig
from lib.networks.network import Network

Labelled = Callable[[Geometry, int], tuple[Volume, Mask]]
CPU = torch.device("cpu")
GRID = Geometry.from_spacing((6, 16, 12), (3.0, 1.0, 1.0))


def sampled(kind: str = "entropy", samples: int = 3, seed: int = 0, map: str = "entropy") -> UncertaintyConfig:  # noqa: A002
    return UncertaintyConfig(kind, samples, seed, map)  # type: ignore[arg-type]


DROPOUT = sampled("dropout")


class Small(Network):
    """Two convolutions with norm and dropout between them; counts how often each half runs."""

    def __init__(self, seed: int = 0, share: float = 0.3, dimensions: int = 2) -> None:
        super().__init__()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = convolution(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8) if dimensions == 2 else nn.BatchNorm3d(8)
            self.dropout = nn.Dropout(share)
            self.head = convolution(8, 4, 1)
            nn.init.normal_(self.head.weight, std=2.0)
        self.begun = self.finished = 0

    def before_dropout(self, images: Tensor) -> Tensor:
        self.begun += 1
        return self.norm(self.stem(images)).relu()

    def after_dropout(self, begun: Tensor) -> tuple[Tensor, Tensor]:
        self.finished += 1
        features = self.dropout(begun)
        return self.head(features), features.flatten(2).mean(dim=2)

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.after_dropout(self.before_dropout(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.segment(images)[0]


def predictor(
    network: Network,
    schema: LabelSchema,
    uncertainty: UncertaintyConfig,
    others: tuple[Network, ...] = (),
    patch: tuple[int, int, int] | None = None,
    options: PredictConfig = PredictConfig(),  # noqa: B008 (frozen)
    batch_size: int = 2,
) -> Predictor:
    preprocess = Preprocess(PreprocessConfig(window_hu=(0, 3), spacing_mm=1.5), context_slices=0, stride=4, patch=patch)
    return Predictor(network, preprocess, schema, CPU, batch_size, options, uncertainty, others)


def require_sound(prediction: Prediction, classes: int = 4) -> None:
    """Every number is finite and within its range."""
    for scores in prediction.quantities.values():
        assert all(isfinite(score) and 0 <= score <= log(classes) for score in scores.values()), scores
    for values in (prediction.entropy, prediction.information):
        assert values is None or (np.isfinite(values).all() and values.min() >= 0 and values.max() <= log(classes))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"size": "tiny"}, (2, 3, 32, 48)),
        ({"size": "vit-tiny", "context_slices": 0}, (1, 1, 32, 48)),
        ({"kind": "transunet3d", "patch": (8, 16, 16)}, (1, 1, 8, 16, 16)),
        ({"kind": "transunet3d", "patch": (8, 16, 16), "parts": "decoder"}, (1, 1, 8, 16, 16)),
        ({"kind": "transunet3d", "patch": (8, 16, 16), "parts": "encoder"}, (1, 1, 8, 16, 16)),
    ],
)
def test_a_transunet_in_two_halves_says_the_same_and_has_its_dropout_in_the_second(
    options: dict[str, object], shape: tuple[int, ...]
) -> None:
    network = build(NetworkConfig(dropout=0.5, **options), classes=3).eval()  # type: ignore[arg-type]
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = network.segment(images)
        begun = network.before_dropout(images)
        with thinned(network, seed=1, sample=0):
            again = network.before_dropout(images)
            other = network.after_dropout(begun)
            assert torch.equal(network.after_dropout(again)[0], other[0])
        halves = network.after_dropout(begun)
    assert torch.equal(whole[0], halves[0])
    assert torch.equal(whole[1], halves[1])
    assert not torch.equal(other[0], halves[0])


def test_a_sample_is_one_thinned_network_for_every_image_and_leaves_no_trace() -> None:
    network = Small().eval()
    one = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = network(one)
        with thinned(network, seed=3, sample=1):
            both, alone = network(torch.cat([one, one + 1])), network(one)
        with thinned(network, seed=3, sample=2):
            another = network(one)
        with pytest.raises(RuntimeError), thinned(network, seed=3, sample=1):
            network(torch.randn(1, 2, 8, 8))
        assert torch.equal(network(one), plain)
    np.testing.assert_allclose(both[:1], alone, atol=1e-6)
    assert not torch.allclose(alone, another)
    assert not network.training
    assert int(network.norm.num_batches_tracked) == 0


def test_dropout_leaves_out_the_share_that_the_layer_says_and_keeps_the_mean() -> None:
    layer = nn.Dropout(0.25).eval()
    whole_channels = nn.Dropout2d(0.25).eval()
    with thinned(nn.Sequential(layer, whole_channels), seed=0, sample=0):
        thin, channels = layer(torch.ones(1, 40_000)), whole_channels(torch.ones(2, 4000, 2, 3))
    assert float((thin == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(thin.max()) == pytest.approx(4 / 3)
    assert float((channels == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert bool((channels == channels[:1, :, :1, :1]).all())


def test_layers_that_leave_nothing_out_count_as_none() -> None:
    assert dropouts(nn.Sequential(nn.Dropout(0.0), nn.Linear(1, 1))) == ()


@given(seed=st.integers(0, 50), samples=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_running_moments_are_those_of_the_whole_stack(seed: int, samples: int) -> None:
    logits = 4 * torch.randn(samples, 2, 5, 3, generator=torch.Generator().manual_seed(seed))
    stack = logits.softmax(dim=2)  # (T, B, classes, n)
    found = moments(stack)
    np.testing.assert_allclose(found.mean, stack.mean(dim=0), atol=1e-6)
    expected = torch.special.entr(stack.mean(dim=0)).sum(dim=1) - torch.special.entr(stack).sum(dim=2).mean(dim=0)
    np.testing.assert_allclose(found.information, expected, atol=1e-5)
    assert 0.0 <= float(found.information.min()) <= float(found.information.max()) <= log(5)
    assert torch.equal(found.votes, stack.argmax(dim=2))


@given(seed=st.integers(0, 50), samples=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_equal_samples_have_no_mutual_information_and_their_own_mean(seed: int, samples: int) -> None:
    one = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)
    found = moments(one for _ in range(samples))
    assert torch.equal(found.mean, one)
    assert not found.information.any()


def test_sure_samples_that_contradict_each_other_have_the_information_of_a_coin() -> None:
    found = moments(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert float(found.information) == pytest.approx(log(2))


def test_what_comes_before_the_dropout_runs_once_a_batch() -> None:
    network = Small().eval()
    asker = Thinned(network, mirrors=((), (-1,)), samples=5, seed=0)
    with torch.inference_mode():
        answer = asker(torch.randn(2, 1, 8, 8))
    assert (network.begun, network.finished) == (2, 2 + 5)
    assert answer.votes is not None
    assert answer.votes.shape == (5, 2, 8, 8)


@pytest.mark.parametrize("patch", [None, (4, 8, 8)])
def test_dropout_tells_where_samples_differ_and_leaves_the_labels_as_they_are(
    schema: LabelSchema, labelled: Labelled, patch: tuple[int, int, int] | None
) -> None:
    volume, _ = labelled(GRID, 0)
    network = Small(dimensions=2 if patch is None else 3)
    plain = predictor(network, schema, sampled(), patch=patch).predict(volume)
    asked = predictor(network, schema, DROPOUT, patch=patch)
    found = asked.predict(volume)
    np.testing.assert_array_equal(found.mask.array, plain.mask.array)
    np.testing.assert_allclose(found.embedding, plain.embedding, atol=1e-6)
    assert plain.information is None
    assert set(plain.quantities) == {"entropy", "margin"}
    assert set(found.quantities) == {"entropy", "margin", "bald", "disagreement"}
    assert found.quantities["entropy"] == plain.quantities["entropy"] == plain.scores
    assert found.information is not None
    assert found.information.max() > 0.01
    require_sound(found)
    assert all(0 < found.evidence[name].samples_dice < 1 for name, ml in found.volumes_ml.items() if ml)
    again = asked.predict(volume)
    np.testing.assert_array_equal(again.information, found.information)
    assert again.quantities == found.quantities


def test_batches_and_threads_do_not_change_what_dropout_leaves_out(schema: LabelSchema, labelled: Labelled) -> None:
    volume, _ = labelled(GRID, 0)
    found = predictor(Small(), schema, DROPOUT).predict(volume).information
    assert found is not None
    whole = predictor(Small(), schema, DROPOUT, batch_size=6)
    with ThreadPoolExecutor(4) as pool:
        for other in pool.map(lambda _: whole.predict(volume).information, range(8)):
            np.testing.assert_allclose(other, found, atol=2e-3)
    seeded = predictor(Small(), schema, sampled(kind="dropout", samples=3, seed=1)).predict(volume)
    assert np.abs(seeded.information - found).max() > 0.01


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(above=st.integers(0, 5), below=st.integers(0, 5), kind=st.sampled_from(["entropy", "dropout", "ensemble"]))
def test_empty_slices_around_the_body_change_neither_scores_nor_evidence_nor_embedding(
    schema: LabelSchema, labelled: Labelled, above: int, below: int, kind: str
) -> None:
    inner = labelled(Geometry.from_spacing((4, 18, 12), (3.0, 1.0, 1.0)), 4)[0].array  # 12 x 8 pixels: no padding
    network, other = Small(seed=5), Small(seed=6)
    with torch.no_grad():
        for one in (network, other):
            one.stem.bias.zero_()
            one.head.bias.copy_(torch.tensor([0.5, 0.0, 0.0, 0.0]))  # what is empty is background
    asked = predictor(network, schema, sampled(kind=kind, samples=2), (other,))

    def scores(slices_above: int, slices_below: int) -> Prediction:
        sides = ((slices_above, slices_below), (0, 0), (0, 0))
        array = np.pad(inner, sides, constant_values=1.5)  # becomes 0
        geometry = Geometry.from_spacing(array.shape, (3.0, 1.0, 1.0))
        return asked.predict(Volume(array, geometry, "CT"))

    alone, padded = scores(1, 1), scores(1 + above, 1 + below)
    for quantity, found in alone.quantities.items():
        assert padded.quantities[quantity] == pytest.approx(found, abs=2e-3), quantity
    for name, evidence in alone.evidence.items():
        assert padded.evidence[name].volume_ml == pytest.approx(evidence.volume_ml)
        assert padded.evidence[name].edge_share == evidence.edge_share
        assert padded.evidence[name].components == evidence.components
        for figure in ("mean_probability", "boundary_entropy", "samples_dice", "largest_probability"):
            found = getattr(padded.evidence[name], figure)
            assert found == pytest.approx(getattr(evidence, figure), abs=2e-3, nan_ok=True), figure
    np.testing.assert_allclose(padded.embedding, alone.embedding, atol=1e-6)


@pytest.mark.parametrize("patch", [None, (4, 8, 8)])
@pytest.mark.parametrize("spacing_mm", [1.0, 0.7])
def test_equal_samples_have_no_information_on_the_volumes_own_grid(
    schema: LabelSchema, labelled: Labelled, patch: tuple[int, int, int] | None, spacing_mm: float
) -> None:
    volume, _ = labelled(Geometry.from_spacing((6, 16, 12), (3.0, spacing_mm, spacing_mm)), 0)
    networks = [Small(dimensions=2 if patch is None else 3) for _ in range(3)]
    found = predictor(networks[0], schema, sampled(kind="ensemble"), tuple(networks[1:]), patch)
    prediction = found.predict(volume)
    assert prediction.information is not None
    assert not prediction.information.any()
    assert set(prediction.quantities["bald"].values()) == {0.0}
    assert set(prediction.quantities["disagreement"].values()) == {0.0}
    assert {e.samples_dice for e in prediction.evidence.values() if e.volume_ml} == {1.0}


def test_an_ensemble_keeps_the_champions_labels_and_without_others_has_no_samples(
    schema: LabelSchema, labelled: Labelled
) -> None:
    volume, _ = labelled(GRID, 0)
    kind = sampled(kind="ensemble")
    alone = predictor(Small(seed=1), schema, kind).predict(volume)
    beside = predictor(Small(seed=1), schema, kind, (Small(seed=2),)).predict(volume)
    np.testing.assert_array_equal(beside.mask.array, alone.mask.array)
    assert alone.information is None
    assert beside.information is not None
    assert max(beside.quantities["disagreement"].values()) > 0.1
    require_sound(beside)


def test_mirrored_answers_are_samples_of_what_the_task_mirrors(schema: LabelSchema, labelled: Labelled) -> None:
    volume, _ = labelled(GRID, 0)
    mirrored = PredictConfig(flips=("rows", "columns"))
    plain = predictor(Small(), schema, sampled(), options=mirrored).predict(volume)
    found = predictor(Small(), schema, sampled(kind="tta"), options=mirrored).predict(volume)
    np.testing.assert_array_equal(found.mask.array, plain.mask.array)
    np.testing.assert_array_equal(found.entropy, plain.entropy)
    assert plain.information is None
    assert found.information is not None
    assert found.information.max() > 0
    require_sound(found)


def test_samples_that_cannot_be_had_are_refused_with_the_way_out(schema: LabelSchema) -> None:
    with pytest.raises(InvalidSettings, match="above 0"):
        predictor(Small(share=0.0), schema, DROPOUT)
    with pytest.raises(InvalidSettings, match=r"predict\.flips"):
        predictor(Small(), schema, sampled(kind="tta"))


@pytest.mark.parametrize("shape", [(6, 16, 12), (1, 16, 12), (1, 1, 1)])
@pytest.mark.parametrize("kind", ["entropy", "dropout"])
def test_a_constant_image_and_a_single_slice_have_finite_scores(
    schema: LabelSchema, shape: tuple[int, int, int], kind: str
) -> None:
    geometry = Geometry.from_spacing(shape, (3.0, 1.0, 1.0))
    network = Small(seed=3)
    uncertainty = sampled(kind=kind)
    prediction = predictor(network, schema, uncertainty).predict(Volume(np.ones(shape), geometry, "CT"))
    require_sound(prediction)
    assert prediction.volumes_ml == pytest.approx({k: v * 0.003 for k, v in prediction.mask.voxels().items()})
    assert sum(1 for ml in prediction.volumes_ml.values() if ml == 0) >= 1  # a label that is predicted nowhere


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "guess"}, "kind must be one of entropy, dropout, tta, ensemble"),
        ({"map": "variance"}, "map must be one of entropy, bald"),
        ({"map": "bald"}, "needs samples"),
        ({"kind": "dropout", "samples": 1}, "from 2 to 64, got 1"),
        ({"seed": -1}, "0 or more"),
    ],
)
def test_wrong_options_of_uncertainty_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        sampled(**options)  # type: ignore[arg-type]


def test_a_task_whose_network_has_no_such_samples_is_refused_with_the_way_out() -> None:
    with_dropout, plain = NetworkConfig(dropout=0.2), PredictConfig()
    sampled("dropout").require_possible("liver", with_dropout, plain)
    sampled("tta").require_possible("liver", with_dropout, PredictConfig(flips=("rows",)))
    sampled("ensemble").require_possible("liver", NetworkConfig(dropout=0.0), plain)
    with pytest.raises(InvalidSettings, match=r"task liver has network\.dropout 0; change the task"):
        sampled("dropout").require_possible("liver", NetworkConfig(dropout=0.0), plain)
    with pytest.raises(InvalidSettings, match=r"has network\.kind dynunet"):
        sampled("dropout").require_possible("liver", NetworkConfig(kind="dynunet", patch=(8, 32, 32)), plain)
    with pytest.raises(InvalidSettings, match=r"task liver names none in predict\.flips"):
        sampled("tta").require_possible("liver", with_dropout, plain)
    alone, slices = NetworkConfig(context_slices=0), PredictConfig(flips=("slices",))
    with pytest.raises(InvalidSettings, match=r"one at a time, count as none"):
        sampled("tta").require_possible("liver", alone, slices)
    sampled("tta").require_possible("liver", NetworkConfig(context_slices=1), slices)
