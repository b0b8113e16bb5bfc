from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.cli.train import _filled_in
from lib.core.errors import ManifestMismatch
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.inference.model import Manifest, build_network, load_ensemble, load_predictor, save_model
from lib.networks.config import NetworkConfig
from lib.taskfile import Task, load_task
from lib.training.checkpoint import BEFORE, CHECKPOINT
from lib.training.data import Case
from lib.workflows.leftout import KEPT, forget_spacing, keep_spacing, kept_spacing, with_spacing

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


@pytest.mark.parametrize("name", [CHECKPOINT, BEFORE])
@pytest.mark.parametrize("spacing_mm", [2.5, None])
def test_an_interrupted_training_goes_on_at_its_spacing_whatever_device_is_there_then(
    name: str, spacing_mm: float | None, tmp_path: Path
) -> None:
    chosen = replace(MR, preprocess=PreprocessConfig(spacing_mm=spacing_mm))
    keep_spacing(MR, ["b", "a"], chosen, tmp_path / "model")
    assert kept_spacing(MR, ["a", "b"], tmp_path / "model") is None  # nothing was done yet
    (tmp_path / "model" / name).touch()
    assert kept_spacing(MR, ["a", "b"], tmp_path / "model") == chosen
    assert kept_spacing(MR, ["a", "b", "c"], tmp_path / "model") is None
    assert kept_spacing(replace(MR, name="other"), ["a", "b"], tmp_path / "model") is None
    forget_spacing(tmp_path / "model")
    assert not (tmp_path / "model" / KEPT).exists()


def test_train_fills_in_the_spacing_of_the_training_that_it_goes_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = [case((3, 256, 256), (7.7, 1.25, 1.25))]
    assert _filled_in(MR, ["a"], large, "cpu", None, tmp_path).preprocess.spacing_mm == 2.5
    keep_spacing(MR, ["a"], MR, tmp_path)  # as a graphics card has it
    (tmp_path / CHECKPOINT).touch()
    assert _filled_in(MR, ["a"], large, "cpu", None, tmp_path) == MR
    keep_spacing(MR, ["a"], replace(MR, preprocess=PreprocessConfig(spacing_mm=3.0)), tmp_path)
    assert _filled_in(MR, ["a"], large, "cpu", None, tmp_path).preprocess.spacing_mm == 3.0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(": it is ")[2] for line in told] == [
        "2.5 mm, as CPUs learn in minutes there",
        f"3.0 mm, as in the training that {tmp_path} goes on with",
    ]
