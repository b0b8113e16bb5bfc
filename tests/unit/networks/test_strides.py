from dataclasses import replace

import pytest

from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.taskfile import Task, load_task

THICK_MM = (7.7, 1.25, 1.25)
FLAT = NetworkConfig(kind="transunet3d", patch=(16, 32, 32))
PHANTOM = load_task("phantom_ct")


def task(network: NetworkConfig, spacing_mm: float | tuple[float, float, float] | None) -> Task:
    return replace(PHANTOM, network=network, preprocess=PreprocessConfig(spacing_mm=spacing_mm))


@pytest.mark.parametrize("kind", ["transunet3d", "dynunet"])
def test_thick_slices_of_a_task_without_strides_are_halved_last(kind: str) -> None:
    network = task(replace(FLAT, kind=kind), THICK_MM).network
    assert network.planned_strides == ((1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert replace(FLAT, kind=kind).planned_strides == ((2, 2, 2), (2, 2, 2), (1, 2, 2))


@pytest.mark.parametrize(
    ("network", "spacing_mm"),
    [
        (FLAT, (1.0, 1.0, 1.0)),
        (FLAT, 1.25),  # as thick as they are: unknown
        (FLAT, None),
        (replace(FLAT, strides=((2, 2, 2), (1, 2, 2))), THICK_MM),
        (NetworkConfig(kind="segresnet", patch=(16, 32, 32)), THICK_MM),
        (NetworkConfig(), THICK_MM),
        (NetworkConfig(kind="dynunet", patch=(22, 8, 8)), (1.0, 3.0, 3.0)),  # would need multiples of 4
        (NetworkConfig(kind="dynunet", patch=(16, 16, 16), channels=(4, 8, 8)), (4.0, 2.0, 1.0)),  # one stage more
    ],
)
def test_strides_stay_where_they_are_given_or_cannot_follow_the_spacing(
    network: NetworkConfig, spacing_mm: float | tuple[float, float, float] | None
) -> None:
    assert network.with_strides(spacing_mm) is network
    assert task(network, spacing_mm).network == network
