"""Networks of patches through the same loop, and every kind learning two cases by heart."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.training.config import AugmentConfig, FitConfig
from lib.training.data import Case, Coverage
from lib.training.fit import FitProgress, FitResult, fit

MakeCase = Callable[[int], Case]
PATCHES = NetworkConfig(kind="transunet3d", patch=(8, 16, 16))
PLAIN = AugmentConfig(0, 0, 0, 0, 0, 0, 0)
SHORT = FitConfig(steps=6, batch_size=2, learning_rate=2e-3, checkpoint_every=2, seed=3, adaptive_weights=True)


class Killed(Exception):
    """Stands for the end of the process."""


def run(
    cases: list[Case],
    config: FitConfig,
    folder: Path,
    network: NetworkConfig = PATCHES,
    report: Callable[[FitProgress], None] = lambda _: None,
) -> FitResult:
    return fit(cases, cases, network, PreprocessConfig(), config, folder, "cpu", report)


def same_weights(first: FitResult, second: FitResult) -> bool:
    return all(torch.equal(value, second.state_dict[name]) for name, value in first.state_dict.items())


@pytest.fixture
def make_boxes(schema: LabelSchema) -> MakeCase:
    """A case of 12 slices of 24 x 24 at 1 mm: a bright and a dark box in noise, somewhere by the seed."""

    def make(seed: int) -> Case:
        rng = np.random.default_rng(seed)
        mask = np.zeros((12, 24, 24), dtype=np.uint8)
        for label, left in ((5, 1), (3, 13)):
            first, row, column = rng.integers(1, 5), rng.integers(1, 13), left + rng.integers(0, 3)
            mask[first : first + 6, row : row + 9, column : column + 7] = label
        image = 100.0 * (mask == 5) - 100.0 * (mask == 3) + rng.normal(0, 20, mask.shape)
        geometry = Geometry.from_spacing(mask.shape, (1.0, 1.0, 1.0))
        volume = Volume(image.astype(np.float32), geometry, "MR")
        return Case(volume, Mask(mask, geometry, schema), str(seed), f"c{seed}")

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(context_slices=0),
        NetworkConfig(context_slices=1),
        NetworkConfig(kind="transunet3d", patch=(12, 24, 24)),
        NetworkConfig(kind="dynunet", patch=(12, 24, 24)),
    ],
    ids=lambda network: f"{network.kind}-{network.context_slices}",
)
def test_two_cases_are_learned_by_heart(network: NetworkConfig, make_boxes: MakeCase, tmp_path: Path) -> None:
    size = 2 if network.of_patches else 12
    config = FitConfig(steps=150, batch_size=size, learning_rate=4e-3, ema_decay=0.9, augment=PLAIN)
    result = run([make_boxes(1), make_boxes(2)], config, tmp_path, network)
    assert result.mean_dice is not None
    assert result.mean_dice > 0.98
    assert min(value or 0 for value in result.dice.values()) > 0.97


def test_the_same_seed_gives_the_same_curve_and_another_one_does_not(make_boxes: MakeCase, tmp_path: Path) -> None:
    cases = [make_boxes(1), make_boxes(2)]
    first, second = (run(cases, SHORT, tmp_path / name) for name in ("a", "b"))
    assert first.losses == second.losses
    assert same_weights(first, second)
    assert run(cases, replace(SHORT, seed=4), tmp_path / "c").losses[0] != first.losses[0]


def test_a_killed_run_of_patches_ends_like_one_that_was_not(
    make_boxes: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    cases, config = [make_boxes(1), make_boxes(2)], replace(SHORT, keep="best", validate_every=3, accumulate=2)
    whole = run(cases, config, tmp_path / "whole")

    def kill(progress: FitProgress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        run(cases, config, tmp_path / "parts", report=kill)
    resumed = run(cases, config, tmp_path / "parts")
    assert (resumed.losses, resumed.curve) == (whole.losses, whole.curve)
    assert same_weights(resumed, whole)


def test_a_patch_that_is_larger_than_the_volume_is_padded(make_boxes: MakeCase, tmp_path: Path) -> None:
    result = run([make_boxes(1)], replace(SHORT, steps=2), tmp_path, replace(PATCHES, patch=(16, 32, 32)))
    assert np.isfinite(result.losses).all()
    assert len(result.cases) == 1


def test_every_augmentation_takes_patches(make_boxes: MakeCase, tmp_path: Path) -> None:
    for name, augment in {
        "all": AugmentConfig(elastic=0.1, low_resolution=1.0, flips=("slices", "rows", "columns"), share=0.5),
        "mixup": AugmentConfig(mixup=1.0),
        "cutmix": AugmentConfig(cutmix=1.0),
    }.items():
        result = run([make_boxes(1)], replace(SHORT, steps=2, augment=augment), tmp_path / name)
        assert np.isfinite(result.losses).all()


def test_partial_annotations_are_learned_from_beside_whole_ones(make_boxes: MakeCase, tmp_path: Path) -> None:
    whole, source = make_boxes(1), make_boxes(2)
    only_dark = Mask(np.where(source.mask.array == 3, 3, 0), source.mask.geometry, source.mask.schema)
    coverage = Coverage(labels=("dark",), slices=tuple(number < 8 for number in range(12)))
    partial = Case(source.volume, only_dark, "2", "partial", coverage)
    result = run([whole, partial], replace(SHORT, steps=4, loss="dice_focal"), tmp_path)
    assert np.isfinite(result.losses).all()
    figures = result.cases[1]
    assert figures.name == "partial"
    assert figures.labels["bright"] is None
    assert figures.calibration_error is None
    assert result.cases[0].calibration_error is not None
