import threading
from collections.abc import Callable
from math import log

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.core.errors import InvalidSettings
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import InferenceConfig, PreprocessConfig
from lib.inference.devices import choose_device, device_lock, set_threads
from lib.inference.predictor import Predictor, SliceNetwork
from lib.inference.preprocess import Preprocess

Labelled = Callable[[Geometry, int], tuple[Volume, Mask]]
CPU = torch.device("cpu")
GRID = Geometry.from_spacing((5, 12, 10), (3.0, 1.0, 1.0))


def predictor(network: SliceNetwork, config: PreprocessConfig, schema: LabelSchema, batch_size: int = 2) -> Predictor:
    return Predictor(network, Preprocess(config, context_slices=1, stride=8), schema, CPU, batch_size)


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
    identity: SliceNetwork,
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


def test_an_identity_network_at_another_spacing_returns_its_input_up_to_the_borders_of_labels(
    identity: SliceNetwork, schema: LabelSchema
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
    identity: SliceNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    identity.logit = 0.0  # type: ignore[attr-defined]
    prediction = predictor(identity, window, schema).predict(labelled(GRID, 1)[0])
    np.testing.assert_allclose(prediction.entropy.astype(float), log(4), rtol=1e-3)
    assert float(prediction.entropy.max()) <= log(4)
    assert prediction.mask.is_empty  # background comes first among equals
    assert set(prediction.scores) == {"liver", "spleen", "aorta"}
    assert prediction.scores["liver"] == pytest.approx(-0.25 * log(0.25) - 0.75 * log(0.75))


def test_the_batch_size_changes_nothing_and_bounds_what_the_network_holds(
    identity: SliceNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    volume, _ = labelled(GRID, 2)
    one = predictor(identity, window, schema, batch_size=1).predict(volume)
    identity.batches.clear()  # type: ignore[attr-defined]
    two = predictor(identity, window, schema, batch_size=2).predict(volume)
    assert identity.batches == [2, 2, 1]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(one.mask.array, two.mask.array)
    np.testing.assert_array_equal(one.entropy, two.entropy)
    np.testing.assert_allclose(one.embedding, two.embedding, atol=1e-6)


def test_the_embedding_is_the_mean_over_slices(
    identity: SliceNetwork, window: PreprocessConfig, schema: LabelSchema
) -> None:
    numbers = np.repeat([0, 3], [2, 2]).astype(np.float32)[:, None, None] * np.ones((1, 16, 16), dtype=np.float32)
    volume = Volume(numbers, Geometry.from_spacing((4, 16, 16), (1, 1, 1)), "CT")
    embedding = predictor(identity, window, schema).predict(volume).embedding
    np.testing.assert_allclose(embedding, [-0.5, 0.0, 0.5])  # previous, this and next slice in [-1, 1]


def test_empty_slices_above_and_below_change_no_score(
    identity: SliceNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    identity.logit = 3.0  # type: ignore[attr-defined]
    volume, _ = labelled(GRID, 3)
    longer = Volume(
        np.pad(volume.array, ((9, 9), (0, 0), (0, 0))), Geometry.from_spacing((23, 12, 10), (3, 1, 1)), "CT"
    )
    with_empty = predictor(identity, window, schema).predict(longer).scores
    assert with_empty == pytest.approx(dict(predictor(identity, window, schema).predict(volume).scores), abs=1e-6)


def test_progress_is_reported_up_to_one_and_each_stage_has_a_time(
    identity: SliceNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
) -> None:
    shares: list[float] = []
    prediction = predictor(identity, window, schema).predict(labelled(GRID, 4)[0], shares.append)
    assert shares == [0.4, 0.8, 1.0]
    assert list(prediction.latencies_s) == ["preprocess", "network", "restore", "scores"]
    assert min(prediction.latencies_s.values()) > 0


def test_requests_from_many_threads_do_not_mix(
    identity: SliceNetwork, window: PreprocessConfig, schema: LabelSchema, labelled: Labelled
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
    with pytest.raises(InvalidSettings, match="got 'tpu'"):
        choose_device("tpu")
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
