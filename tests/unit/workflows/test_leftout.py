from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.errors import ManifestMismatch
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.inference.model import Manifest, build_network, load_ensemble, load_predictor, save_model
from lib.networks.config import NetworkConfig
from lib.taskfile import Task, load_task
from lib.training.data import Case
from lib.workflows.leftout import with_spacing

MR = replace(load_task("hippocampus_mr"), preprocess=PreprocessConfig(), network=NetworkConfig(dropout=0.0))


def case(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Case:
    grid = Geometry.from_spacing(shape, spacing_mm)
    return Case(Volume(np.zeros(shape), grid, "MR"), Mask(np.zeros(shape, dtype=np.uint8), grid, MR.schema))


def test_a_task_that_names_no_spacing_sees_slices_of_128_pixels_where_cpus_train() -> None:
    cases = [case((3, 256, 200), (7.7, 1.25, 1.25)), case((3, 320, 256), (7.7, 1.0, 1.0))]
    assert with_spacing(MR, cases, "cpu").preprocess == PreprocessConfig(spacing_mm=2.5)  # 320 mm in both


@pytest.mark.parametrize(
    "task",
    [
        replace(MR, preprocess=PreprocessConfig(spacing_mm=1.25)),
        replace(MR, network=NetworkConfig(kind="transunet3d", patch=(8, 32, 32))),
    ],
)
def test_a_spacing_that_is_named_and_patches_stay_as_they_are(task: Task) -> None:
    assert with_spacing(task, [case((3, 256, 256), (7.7, 1.25, 1.25))], "cpu") is task


def test_small_slices_stay_as_they_are() -> None:
    assert with_spacing(MR, [case((3, 128, 100), (1.0, 0.5, 0.5))], "cpu") is MR


def saved(folder: Path, task: Task) -> Path:
    torch.manual_seed(0)
    state = build_network(task.network, task.schema).state_dict()
    save_model(folder, Manifest.describe(task, 0), state)
    return folder


def test_a_training_goes_on_at_the_spacing_of_the_model_that_it_starts_from(tmp_path: Path) -> None:
    large = [case((3, 256, 256), (7.7, 1.25, 1.25))]
    coarse = replace(MR, preprocess=PreprocessConfig(spacing_mm=2.5))
    assert with_spacing(MR, large, "cpu", saved(tmp_path / "own", MR)) == MR
    assert with_spacing(MR, large, "cpu", saved(tmp_path / "coarse", coarse)) == coarse


def test_a_model_is_asked_at_the_spacing_that_it_was_trained_at_where_its_task_names_none(tmp_path: Path) -> None:
    coarse = replace(MR, preprocess=PreprocessConfig(spacing_mm=2.5))
    folder = saved(tmp_path / "coarse", coarse)
    grid = Geometry.from_spacing((2, 40, 40), (5.0, 1.25, 1.25))
    volume = Volume(np.random.default_rng(0).normal(0, 1, grid.shape), grid, "MR")
    asked, expected = (load_predictor(folder, task, "cpu", 1).predict(volume) for task in (MR, coarse))
    np.testing.assert_array_equal(asked.entropy, expected.entropy)
    with pytest.raises(ManifestMismatch, match=r"preprocess.spacing_mm = 1.25, this one has 2.5"):
        load_predictor(folder, replace(MR, preprocess=PreprocessConfig(spacing_mm=1.25)), "cpu", 1)
    with pytest.raises(
        ManifestMismatch, match=r"must have one preprocess.spacing_mm, .*coarse has 2.5, .*own has None"
    ):
        load_ensemble([folder, saved(tmp_path / "own", MR)], MR, "cpu", 1)
