import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.dicom.nifti import write_mask, write_volume
from lib.inference.config import PreprocessConfig
from lib.inference.model import build_network, build_preprocess, file_sha256, read_manifest
from lib.inference.predictor import Predictor
from lib.networks.config import NetworkConfig
from lib.taskfile import Task
from lib.training.config import FitConfig
from lib.training.measure import CaseMetrics, LabelFigures
from lib.workflows.evaluation import Evaluation, evaluate_folder, summary
from lib.workflows.offline import TrainOptions, divide, train_folder
from lib.workflows.userfiles import pairs_of

GRID = Geometry.from_spacing((5, 24, 24), (3.0, 1.0, 1.0))


@pytest.fixture
def task() -> Task:
    labels = tuple(Label(name, n, (n, n, n), Code("123037004", "Body")) for name, n in (("box", 4), ("dot", 9)))
    parts = PreprocessConfig(window_hu=(0, 100)), NetworkConfig(dropout=0.0), FitConfig(steps=1, batch_size=1)
    return Task("boxes", "Boxes", ("CT",), labels, "", ("dot",), *parts)


@pytest.fixture
def data(task: Task, tmp_path: Path) -> Path:
    """Four bright boxes of 3 x 10 x 10 voxels in images/ and labels/."""
    for seed in range(4):
        mask = np.zeros(GRID.shape, dtype=np.uint8)
        mask[1:4, 4 + seed : 14 + seed, 6:16] = 4
        image = np.where(mask == 4, 90, 10) + np.random.default_rng(seed).integers(-5, 6, mask.shape)
        write_volume(Volume(image.astype(np.float32), GRID, "CT"), tmp_path / "images" / f"case{seed}.nii.gz")
        write_mask(Mask(mask, GRID, task.schema), tmp_path / "labels" / f"case{seed}.nii.gz")
    return tmp_path


class Bright:
    """Stands for a model that is 75 % sure, and says 4 where the image is bright; `doubled` takes a slice more."""

    def __init__(self, task: Task, more: bool = False) -> None:
        network = build_network(task.network, task.schema)
        device = next(iter(network.parameters())).device
        self.inner = Predictor(network, build_preprocess(task.preprocess, task.network), task.schema, device, 4)
        self.schema: LabelSchema = task.schema
        self.more = more

    def predict(self, volume: Volume, report=None, on_probabilities=None) -> object:
        found = volume.array > 50
        if self.more:
            found[0] = found[1]
        probabilities = np.full((len(found), 3, *found.shape[1:]), 0.125, dtype=np.float32)
        probabilities[:, 0][~found], probabilities[:, 1][found] = 0.75, 0.75
        on_probabilities(slice(0, len(found)), probabilities)
        mask = Mask(np.where(found, 4, 0), volume.geometry, self.schema)
        return replace(self.inner.predict(volume), mask=mask)


def test_a_model_that_is_always_right_is_perfect_but_too_little_sure(task: Task, data: Path) -> None:
    figures = summary(task, evaluate_folder(data / "images", data / "labels", task, Bright(task), lambda *_: None))
    perfect = {"dice": 1.0, "hd95_mm": 0.0, "nsd": 1.0, "volume_error": 0.0}
    assert figures["mean"] == {**perfect, "calibration_error": pytest.approx(0.25)}
    assert figures["cases"]["case3"] == {"box": {**perfect, "volume_error_ml": 0.0}, "dot": None}
    assert figures["labels"]["dot"] == {**dict.fromkeys(perfect), "cases": 0, "hd95_infinite": 0}
    assert figures["calibration_errors"]["case0"] == pytest.approx(0.25)
    assert (figures["tolerance_mm"], figures["learned_from"]) == (1.0, [])
    json.dumps(figures, allow_nan=False)


def test_a_slice_too_many_is_a_third_more_volume(task: Task, data: Path) -> None:
    found = evaluate_folder(data / "images", data / "labels", task, Bright(task, more=True), lambda *_: None)
    box = summary(task, found)["cases"]["case1"]["box"]
    assert box["volume_error"] == pytest.approx(1 / 3)
    assert box["volume_error_ml"] == pytest.approx(0.3)  # 100 voxels of 3 mm3
    assert box["dice"] == pytest.approx(600 / 700)


def test_an_infinite_distance_leaves_the_mean_and_is_counted(task: Task) -> None:
    good, missed = LabelFigures(0.8, 2.0, 0.9, 1.0, -0.1), LabelFigures(0.0, float("inf"), 0.0, -1.0, None)
    cases = CaseMetrics("a", {"box": good, "dot": missed}, 0.1), CaseMetrics("b", {"box": missed, "dot": None}, None)
    figures = summary(task, Evaluation(cases))
    assert figures["labels"]["box"] == {
        "dice": pytest.approx(0.4), "hd95_mm": 2.0, "nsd": 0.45, "volume_error": 0.1, "cases": 2, "hd95_infinite": 1,
    }  # fmt: skip
    assert figures["mean"]["dice"] == pytest.approx(0.4)  # the rare label stays out
    assert figures["mean"]["calibration_error"] == 0.1
    assert figures["cases"]["b"]["box"]["hd95_mm"] is None


def test_cases_that_the_model_has_learned_from_are_named(task: Task, data: Path) -> None:
    folders = data / "images", data / "labels"
    train_folder(*folders, task, data / "model", TrainOptions(device="cpu", holdout=0.25), lambda _: None)
    learn, held_out = divide(pairs_of(*folders), 0.25, str)
    files = read_manifest(data / "model").files
    assert set(files) == {file_sha256(pair.image) for pair in learn}
    found = evaluate_folder(*folders, task, Bright(task), lambda *_: None, files)
    assert found.learned == tuple(pair.name for pair in learn)
    assert held_out[0].name not in found.learned
