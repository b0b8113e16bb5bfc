import threading
from collections.abc import Callable
from math import log

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib.core.errors import InvalidSettings, OutOfMemory, PredictionFailed
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import InferenceConfig, PredictConfig, PreprocessConfig, UncertaintyConfig
from lib.inference.devices import choose_device, device_lock, set_threads
from lib.inference.ensemble import Ensemble
from lib.inference.predictor import Predictor, SegmentingNetwork
from lib.inference.preprocess import Preprocess
from lib.networks.network import Network

Labelled = Callable[[Geometry, int], tuple[Volume, Mask]]
CPU = torch.device("cpu")
GRID = Geometry.from_spacing((5, 12, 10), (3.0, 1.0, 1.0))


def predictor(
    network: SegmentingNetwork, config: PreprocessConfig, schema: LabelSchema, batch_size: int = 2
) -> Predictor:
    return Predictor(network, Preprocess(config, context_slices=1, stride=8), schema, CPU, batch_size)


def of_patches(
    network: SegmentingNetwork,
    config: PreprocessConfig,
    schema: LabelSchema,
    patch: tuple[int, int, int],
    options: PredictConfig = PredictConfig(),  # noqa: B008 (frozen)
    batch_size: int = 1,
) -> Predictor:
    preprocess = Preprocess(config, context_slices=0, stride=1, patch=patch)
    return Predictor(network, preprocess, schema, CPU, batch_size, options)


class Fixed(Network):
    """Answers with given logits (classes,), the same everywhere, and the images' means as embedding."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        shape = (len(images), len(self.logits), *images.shape[2:])
        return self.logits.view(1, -1, *[1] * (images.ndim - 2)).expand(shape)

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self(images), images.flatten(1).mean(dim=1, keepdim=True)


class FirstCorner(Fixed):
    """Sure of class 1 in the first voxel along each axis that it sees, of background elsewhere."""

    def __init__(self) -> None:
        super().__init__(0.0, -100.0, -100.0, -100.0)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        logits = super().forward(images).clone()
        logits[(slice(None), 1, *[0] * (images.ndim - 2))] = 100.0
        return logits


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 20), st.integers(1, 20)),
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    seed=st.integers(0, 99),
)
def test_an_identity_network_returns_its_input_labels_whatever_way_they_are_stored(
    shape: tuple[int, int, int],
    order: list[int],
    signs: tuple[float, ...],
    seed: int,
    identity: SegmentingNetwork,
    window: PreprocessConfig,
    schema: LabelSchema,
    labelled: Labelled,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs
    geometry = Geometry(shape, affine)
    volume, mask = labelled(geometry, seed)
    prediction = predictor(identity, window, schema).predict(volume)
    np.testing.assert_array_equal(prediction.mask.array, mask.array)
    assert prediction.geometry is geometry
    assert float(prediction.entropy.max()) < 1e-6


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 16), st.integers(1, 16)),
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    seed=st.integers(0, 99),
    patch=st.tuples(*[st.integers(1, 8)] * 3),
    overlap=st.sampled_from([0.0, 0.5]),
)
def test_patches_of_an_identity_network_return_its_input_labels_whatever_way_they_are_stored(
    shape: tuple[int, int, int],
    order: list[int],
    signs: tuple[float, ...],
    seed: int,
    patch: tuple[int, int, int],
    overlap: float,
    identity: SegmentingNetwork,
    window: PreprocessConfig,
    schema: LabelSchema,
    labelled: Labelled,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs
    volume, mask = labelled(Geometry(shape, affine), seed)
    given = np.full((4, *shape), np.nan, dtype=np.float32)

    def collect(slices: slice, probabilities: np.ndarray) -> None:
        assert np.isnan(given[:, slices]).all()  # every slice comes once
        given[:, slices] = probabilities.swapaxes(0, 1)

    options = PredictConfig(overlap=overlap, flips=("slices", "columns"))
    prediction = of_patches(identity, window, schema, patch, options).predict(volume, None, collect)
    np.testing.assert_array_equal(prediction.mask.array, mask.array)
    np.testing.assert_array_equal(np.array([0, *schema.ids])[given.argmax(axis=0)], mask.array)
    np.testing.assert_allclose(given.sum(axis=0), 1, atol=2e-6)


@pytest.mark.parametrize("patch", [None, (4, 16, 16)])
def test_thick_slices_resampled_along_all_axes_return_labels_up_to_their_borders(
    patch: tuple[int, int, int] | None, identity: SegmentingNetwork, schema: LabelSchema
) -> None:
    geometry = Geometry.from_spacing((9, 30, 20), (7.7, 1.25, 1.25))
    numbers = np.zeros(geometry.shape, dtype=np.float32)
    numbers[2:7, 8:20, 5:15] = 3
    config = PreprocessConfig(spacing_mm=(3.0, 1.5, 1.5), window_hu=(0, 3))
    preprocess = Preprocess(config, context_slices=0, stride=8, patch=patch)
    asked = Predictor(identity, preprocess, schema, CPU, batch_size=4).predict(Volume(numbers, geometry, "MR"))
    sure = np.ones(geometry.shape, dtype=bool)
    sure[1:8, 7:21, 4:16] = False
    sure[3:6, 9:19, 6:14] = True
    np.testing.assert_array_equal((asked.mask.array == 200)[sure], (numbers == 3)[sure])


def test_a_constant_network_of_patches_gives_its_constant_at_the_borders_too(schema: LabelSchema) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1])
    slabs: list[np.ndarray] = []
    volume = Volume(np.zeros((21, 13, 17)), Geometry.from_spacing((21, 13, 17), (1.0, 1.0, 1.0)), "MR")
    network = of_patches(Fixed(*logits.tolist()), PreprocessConfig(), schema, (8, 6, 10), batch_size=1)
    prediction = network.predict(volume, None, lambda _, probabilities: slabs.append(probabilities.copy()))
    expected = logits.softmax(dim=0).numpy()[None, :, None, None]
    np.testing.assert_allclose(np.concatenate(slabs) - expected, 0, atol=1e-6)
    assert (prediction.mask.array == 2).all()


def test_mirrored_images_are_turned_back_and_their_probabilities_averaged(schema: LabelSchema) -> None:
    network = FirstCorner()
    volume = Volume(np.zeros((2, 4, 4)), Geometry.from_spacing((2, 4, 4), (1.0, 1.0, 1.0)), "MR")
    slabs: list[np.ndarray] = []
    options = PredictConfig(flips=("rows", "slices"))
    asked = of_patches(network, PreprocessConfig(), schema, (2, 4, 4), options)
    asked.predict(volume, None, lambda _, probabilities: slabs.append(probabilities.copy()))
    first = np.concatenate(slabs)[:, 1]
    expected = np.zeros((2, 4, 4))
    expected[:, [0, -1], 0] = 0.25  # four pictures, each with another corner of the first column
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert len(network.seen) == 4


def test_mirroring_the_slices_of_a_network_of_slices_reverses_its_neighbours(schema: LabelSchema) -> None:
    ramp = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((1, 8, 8), dtype=np.float32)
    volume = Volume(ramp, Geometry.from_spacing((3, 8, 8), (1.0, 1.0, 1.0)), "CT")
    network, config = FirstCorner(), PreprocessConfig(window_hu=(0, 2))
    options = PredictConfig(flips=("slices",))
    asked = Predictor(network, Preprocess(config, 1, stride=4), schema, CPU, batch_size=3, options=options)
    mask = asked.predict(volume).mask
    assert [images[1, :, 0, 0].tolist() for images in network.seen] == [[-1, 0, 1], [1, 0, -1]]
    assert np.argwhere(mask.array).tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]  # the answer has no such axis
    network.seen.clear()
    Predictor(network, Preprocess(config, 0, stride=4), schema, CPU, batch_size=3, options=options).predict(volume)
    assert len(network.seen) == 1  # without neighbours there is nothing to reverse


def test_an_ensemble_answers_with_the_mean_of_its_probabilities(schema: LabelSchema) -> None:
    first, second = Fixed(0.0, 0.0, 0.0, 0.0), Fixed(0.0, -200.0, -200.0, -200.0)
    ensemble = Ensemble([first, second])
    images = torch.full((2, 1, 4, 4, 4), 3.0)
    logits, embedding = ensemble.segment(images)
    mean = torch.tensor([0.625, 0.125, 0.125, 0.125])
    torch.testing.assert_close(logits.softmax(dim=1), mean.view(1, 4, 1, 1, 1).expand(2, 4, 4, 4, 4))
    torch.testing.assert_close(ensemble(images), logits)
    assert embedding.tolist() == [[3.0], [3.0]]
    volume = Volume(np.zeros((4, 4, 4)), Geometry.from_spacing((4, 4, 4), (1.0, 1.0, 1.0)), "MR")
    prediction = of_patches(ensemble, PreprocessConfig(), schema, (4, 4, 4)).predict(volume)
    assert float(prediction.entropy[0, 0, 0]) == pytest.approx(-sum(p * log(p) for p in mean.tolist()), rel=1e-3)
    with pytest.raises(InvalidSettings, match="at least one network"):
        Ensemble([])


def test_progress_of_patches_is_their_share_and_the_embedding_their_mean(
    identity: SegmentingNetwork, window: PreprocessConfig, schema: LabelSchema
) -> None:
    numbers = np.repeat([0, 3], 4).astype(np.float32)[:, None, None] * np.ones((1, 4, 4), dtype=np.float32)
    volume = Volume(numbers, Geometry.from_spacing((8, 4, 4), (1, 1, 1)), "CT")
    shares: list[float] = []
    asked = of_patches(identity, window, schema, (4, 4, 4), PredictConfig(overlap=0.5))
    prediction = asked.predict(volume, shares.append)
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    assert prediction.embedding.tolist() == pytest.approx([0.0])  # -1, 0 and 1
    assert list(prediction.latencies_s) == ["preprocess", "network", "restore", "scores"]


def test_an_identity_network_at_another_spacing_returns_its_input_up_to_the_borders_of_labels(
    identity: SegmentingNetwork, schema: LabelSchema
) -> None:
    geometry = Geometry.from_spacing((2, 40, 60), (3.0, 1.0, 0.7))
    numbers = np.zeros(geometry.shape, dtype=np.float32)
    numbers[:, 10:30, 20:50] = 3
    config = PreprocessConfig(spacing_mm=0.5, window_hu=(0, 3))
    mask = predictor(identity, config, schema).predict(Volume(numbers, geometry, "CT")).mask
    sure = np.ones(geometry.shape, dtype=bool)
    sure[:, 9:31, 19:51] = False
    sure[:, 11:29, 21:49] = True
    np.testing.assert_array_equal((mask.array == 200)[sure], (numbers == 3)[sure])


def test_a_network_that_does_not_know_has_the_largest_entropy_everywhere(
    identity: SegmentingNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    identity.logit = 0.0  # type: ignore[attr-defined]
    prediction = predictor(identity, window, schema).predict(labelled(GRID, 1)[0])
    np.testing.assert_allclose(prediction.entropy.astype(float), log(4), rtol=1e-3)
    assert float(prediction.entropy.max()) <= log(4)
    assert prediction.mask.is_empty  # background comes first among equals
    assert set(prediction.scores) == {"liver", "spleen", "aorta"}
    assert prediction.scores["liver"] == pytest.approx(-0.25 * log(0.25) - 0.75 * log(0.75))


def test_the_batch_size_changes_nothing_and_bounds_what_the_network_holds(
    identity: SegmentingNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    volume, _ = labelled(GRID, 2)
    one = predictor(identity, window, schema, batch_size=1).predict(volume)
    identity.batches.clear()  # type: ignore[attr-defined]
    two = predictor(identity, window, schema, batch_size=2).predict(volume)
    assert identity.batches == [2, 2, 1]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(one.mask.array, two.mask.array)
    np.testing.assert_array_equal(one.entropy, two.entropy)
    np.testing.assert_allclose(one.embedding, two.embedding, atol=1e-6)


class Crowded(Fixed):
    """Has no memory for more than so many images at a time."""

    def __init__(self, room: int, seen: list[int]) -> None:
        super().__init__(0.0, 1.0, 2.0, 3.0)
        self.room, self.seen = room, seen

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().segment(images)


def test_without_memory_half_as_many_slices_are_asked_about_for_the_rest_of_a_volume(
    window: PreprocessConfig, schema: LabelSchema, labelled: Labelled, caplog: pytest.LogCaptureFixture
) -> None:
    volume, seen = labelled(GRID, 2)[0], list[int]()
    found = predictor(Crowded(2, seen), window, schema, batch_size=4).predict(volume)
    assert seen == [4, 2, 2, 1]
    assert "no memory on cpu for 4 slices at a time, trying half as many: CUDA out of memory" in caplog.text
    wanted = predictor(Crowded(2, []), window, schema, batch_size=2).predict(volume)
    np.testing.assert_array_equal(found.mask.array, wanted.mask.array)
    np.testing.assert_array_equal(found.embedding, wanted.embedding)


def test_without_memory_for_a_patch_the_error_names_the_image(
    window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    volume, seen = labelled(GRID, 2)[0], list[int]()
    with pytest.raises(OutOfMemory, match=r"no memory on cpu to predict an image of .* voxels, .*CUDA out of memory"):
        of_patches(Crowded(0, seen), window, schema, (2, 8, 8), PredictConfig()).predict(volume)
    assert len(seen) == 1


@pytest.mark.parametrize(("batch_size", "tried"), [(4, [4, 2]), (1, [1])])
def test_without_memory_for_half_as_many_the_error_names_slices_and_option(
    batch_size: int, tried: list[int], window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    volume, seen = labelled(GRID, 2)[0], list[int]()
    crowded = predictor(Crowded(0, seen), window, schema, batch_size=batch_size)
    with pytest.raises(
        OutOfMemory, match=rf"to predict {tried[-1]} slices of 16 x 16 at a time; lower inference.batch"
    ):
        crowded.predict(volume)
    assert seen == tried


class Holed(Fixed):
    """Is no number at one voxel of the third slice that it sees."""

    def __init__(self, where: tuple[int, int] = (4, 5)) -> None:
        super().__init__(1.0, 0.0, 0.0, 0.0)
        self.where, self.seen = where, 0

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images).clone()
        if self.seen <= 2 < self.seen + len(images):
            logits[(2 - self.seen, 2, *self.where)] = float("nan")
        self.seen += len(images)
        return logits


@pytest.mark.parametrize(("reversed_slices", "number"), [(False, 2), (True, 5)])
def test_an_answer_that_is_no_number_is_refused_with_its_slice(
    reversed_slices: bool, number: int, window: PreprocessConfig, schema: LabelSchema
) -> None:
    affine = np.diag([3.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]  # slices to the head
    affine[2, 0] *= -1 if reversed_slices else 1
    volume = Volume(np.ones((8, 16, 16), np.float32), Geometry((8, 16, 16), affine), "CT")
    found = Predictor(Holed(), Preprocess(window, 0, 8), schema, CPU, batch_size=2)
    found.name = "version 7 of task abdomen"
    with pytest.raises(
        PredictionFailed,
        match=rf"^version 7 of task abdomen: .* got 1 voxels .* the first in slice {number} of 8 .*rollback",
    ):
        found.predict(volume)


def test_samples_that_are_no_numbers_are_refused_as_well(window: PreprocessConfig, schema: LabelSchema) -> None:
    volume = Volume(np.ones((8, 16, 16), np.float32), Geometry.from_spacing((8, 16, 16), (1, 1, 1)), "CT")
    ensemble = UncertaintyConfig("ensemble", 2, 0, "entropy")
    found = Predictor(
        Fixed(1, 0, 0, 0), Preprocess(window, 0, 8), schema, CPU, 2, uncertainty=ensemble, others=(Holed(),)
    )
    with pytest.raises(PredictionFailed, match=r"^the network: probabilities must be numbers, got 1 voxels"):
        found.predict(volume)


def ct_of(array: np.ndarray) -> Volume:
    return Volume(array.astype(np.float32), Geometry.from_spacing(array.shape, (1, 1, 1)), "CT")


def body_between(above: int, below: int) -> Volume:
    """Eight slices of a body of 40 to 110 HU in air, with slices of air around it."""
    array = np.full((8, 16, 16), -1000.0)
    array[:, 4:12, 4:12] = 40 + 10 * np.arange(8)[:, None, None]
    return ct_of(np.pad(array, ((above, below), (0, 0), (0, 0)), constant_values=-1000.0))


@pytest.mark.parametrize("above", [0, 4, 12])
@pytest.mark.parametrize("patch", [None, (4, 16, 16)])
def test_slices_and_patches_of_air_around_the_body_do_not_move_the_embedding(
    above: int, patch: tuple[int, int, int] | None, schema: LabelSchema
) -> None:
    config, network = PreprocessConfig(window_hu=(-1000, 1000)), Fixed(1, 0, 0, 0)
    options = PredictConfig(overlap=0.0)
    if patch is None:
        one = Predictor(network, Preprocess(config, context_slices=0, stride=8), schema, CPU, 2)
    else:
        one = of_patches(network, config, schema, patch, options)
    body = (40 + 10 * np.arange(8)).mean() / 1000  # a quarter of each slice; the rest is -1
    wanted = [0.25 * body - 0.75]
    np.testing.assert_allclose(one.predict(body_between(above, 8)).embedding, wanted, atol=1e-6)


def test_where_planes_are_further_apart_than_slices_those_with_some_body_count(schema: LabelSchema) -> None:
    config = PreprocessConfig(window_hu=(-1000, 1000), spacing_mm=(2.0, 1.0, 1.0))
    one = of_patches(Fixed(1, 0, 0, 0), config, schema, (1, 16, 16), PredictConfig(overlap=0.0))
    body = (40 + 10 * np.arange(8)).mean() / 1000
    np.testing.assert_allclose(one.predict(body_between(8, 4)).embedding, [0.25 * body - 0.75], atol=0.03)


def test_the_body_is_found_in_the_reading_direction(schema: LabelSchema) -> None:
    volume, preprocess = body_between(2, 9), Preprocess(PreprocessConfig(window_hu=(-1000, 1000)), 0, 8)
    one = Predictor(Fixed(1, 0, 0, 0), preprocess, schema, CPU, 2)
    affine = volume.geometry.affine.copy()
    affine[:3, 0] *= -1
    turned = Volume(volume.array, Geometry(volume.geometry.shape, affine), "CT")
    np.testing.assert_allclose(one.predict(turned).embedding, one.predict(volume).embedding, atol=1e-6)


@pytest.mark.parametrize("value", [-1000.0, 0.0])
def test_without_any_body_the_embedding_is_the_mean_over_all(value: float, schema: LabelSchema) -> None:
    network = Fixed(1, 0, 0, 0)
    one = Predictor(network, Preprocess(PreprocessConfig(window_hu=(-1000, 1000)), 0, 8), schema, CPU, 2)
    np.testing.assert_allclose(one.predict(ct_of(np.full((3, 16, 16), value))).embedding, [value / 1000])


def test_the_embedding_is_the_mean_over_slices(
    identity: SegmentingNetwork, window: PreprocessConfig, schema: LabelSchema
) -> None:
    numbers = np.repeat([0, 3], [2, 2]).astype(np.float32)[:, None, None] * np.ones((1, 16, 16), dtype=np.float32)
    volume = Volume(numbers, Geometry.from_spacing((4, 16, 16), (1, 1, 1)), "CT")
    embedding = predictor(identity, window, schema).predict(volume).embedding
    np.testing.assert_allclose(embedding, [-0.5, 0.0, 0.5])  # previous, this and next slice in [-1, 1]


def test_empty_slices_above_and_below_change_no_score(
    identity: SegmentingNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    identity.logit = 3.0  # type: ignore[attr-defined]
    volume, _ = labelled(GRID, 3)
    longer = Volume(
        np.pad(volume.array, ((9, 9), (0, 0), (0, 0))), Geometry.from_spacing((23, 12, 10), (3, 1, 1)), "CT"
    )
    with_empty = predictor(identity, window, schema).predict(longer).scores
    assert with_empty == pytest.approx(dict(predictor(identity, window, schema).predict(volume).scores), abs=1e-6)


def test_progress_is_reported_up_to_one_and_each_stage_has_a_time(
    identity: SegmentingNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    shares: list[float] = []
    prediction = predictor(identity, window, schema).predict(labelled(GRID, 4)[0], shares.append)
    assert shares == [0.4, 0.8, 1.0]
    assert list(prediction.latencies_s) == ["preprocess", "network", "restore", "scores"]
    assert min(prediction.latencies_s.values()) > 0


def test_requests_from_many_threads_do_not_mix(
    identity: SegmentingNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    shared = predictor(identity, window, schema)
    cases = [labelled(Geometry.from_spacing((3 + n, 9, 8 + n), (1, 1, 1)), n) for n in range(6)]
    wrong: list[int] = []

    def work(number: int) -> None:
        volume, mask = cases[number]
        for _ in range(5):
            if shared.predict(volume).mask.changed_voxels(mask):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_network_runs_in_eval_mode_on_its_device(schema: LabelSchema, window: PreprocessConfig) -> None:
    network = torch.nn.Dropout()
    Predictor(network, Preprocess(window, 0, 8), schema, CPU, 1)  # type: ignore[arg-type]
    assert not network.training


def test_one_lock_belongs_to_a_device() -> None:
    assert device_lock(torch.device("cpu")) is device_lock(CPU)
    assert device_lock(torch.device("cuda:1")) is not device_lock(torch.device("cuda:0"))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="got 'cuda:99'"):
        choose_device("cuda:99")
    for wrong in ("tpu", "cuda:x", "cuda:", "cudas"):
        with pytest.raises(InvalidSettings, match=f"got '{wrong}'"):
            choose_device(wrong)
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")


def test_zero_threads_means_half_of_the_cores() -> None:
    before = torch.get_num_threads()
    try:
        assert set_threads(3) == 3 == torch.get_num_threads()
        assert set_threads(0) >= 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"threads": -1}, "0 or more, got -1"),
    ],
)
def test_a_wrong_option_is_refused_with_what_came(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        InferenceConfig(**{"device": "auto", "batch_size": 1, "threads": 0, **options})  # type: ignore[arg-type]
