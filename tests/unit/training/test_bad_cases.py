"""Cases that a fit meets in the field and must take, or refuse with a reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.training.config import FitConfig
from lib.training.data import Case, Coverage
from lib.training.fit import FitResult, fit

MakeCase = Callable[[int], Case]
CONFIG = FitConfig(steps=3, batch_size=2, adaptive_weights=True)


def run(cases: list[Case], folder: Path, config: FitConfig = CONFIG) -> FitResult:
    return fit(cases, cases, NetworkConfig(context_slices=0), PreprocessConfig(), config, folder, "cpu")


@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "tversky_ce"])
def test_a_label_that_never_occurs_is_warned_of_and_makes_no_loss_that_is_not_a_number(
    loss: str, make_case: MakeCase, schema: LabelSchema, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = make_case(1)
    only_dark = Mask(np.where(case.mask.array == 3, 3, 0), case.mask.geometry, schema)
    config = FitConfig(steps=3, batch_size=2, adaptive_weights=True, loss=loss)  # type: ignore[arg-type]
    result = run([Case(case.volume, only_dark, name="c1")], tmp_path, config)
    assert np.isfinite(result.losses).all()
    assert all(value.isfinite().all() for value in result.state_dict.values())
    assert "none of the 1 cases shows bright: the model will not find it" in caplog.text


@pytest.mark.parametrize("value", [0.0, -1000.0, 1e6])
def test_a_constant_image_trains_without_a_loss_that_is_not_a_number(
    value: float, make_case: MakeCase, tmp_path: Path
) -> None:
    case = make_case(1)
    flat = Volume(np.full(case.volume.array.shape, value, np.float32), case.volume.geometry, "MR")
    result = run([Case(flat, case.mask, name="flat")], tmp_path)
    assert np.isfinite(result.losses).all()
    assert all(weights.isfinite().all() for weights in result.state_dict.values())


def test_one_case_is_enough(make_case: MakeCase, tmp_path: Path) -> None:
    result = run([make_case(1)], tmp_path)
    assert np.isfinite(result.losses).all()
    assert [case.name for case in result.cases] == ["c1"]


def test_a_case_of_which_nothing_is_annotated_takes_no_part(make_case: MakeCase, tmp_path: Path) -> None:
    whole, source = make_case(1), make_case(2)
    empty = Case(source.volume, source.mask, "2", "none", Coverage(slices=(False,) * 6))
    alone, beside = run([whole], tmp_path / "alone"), run([whole, empty], tmp_path / "beside")
    assert beside.losses == alone.losses
    assert all(figures is None for figures in beside.cases[1].labels.values())
