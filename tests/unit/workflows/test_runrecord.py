import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.core.errors import RegistryUnavailable
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label
from lib.core.values import Mask, Volume
from lib.inference.model import Manifest, build_network, load_predictor, save_model
from lib.inference.predictor import Predictor
from lib.networks.config import NetworkConfig
from lib.registry.tracking import RunRecord
from lib.taskfile import Task
from lib.training.config import FitConfig
from lib.training.data import Case
from lib.training.fit import FitResult
from lib.training.measure import CaseMetrics, LabelFigures
from lib.training.usage import Usage
from lib.workflows.casefigures import LabelMeans, means_by_label
from lib.workflows.heartbeat import Stopped
from lib.workflows.runrecord import Training, case_row, commit, describe, figures, log_training

GRID = Geometry.from_spacing((3, 32, 32), (3.0, 1.0, 1.0))


class Memory:
    """A log that keeps what it is given, or refuses it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.records: list[RunRecord] = []
        self.error = error

    def write(self, record: RunRecord) -> str:
        if self.error is not None:
            raise self.error
        self.records.append(record)
        return "id"


class ReadCases:
    """Cases that are made when they are asked for; how often each was."""

    def __init__(self, make: Callable[[int], Case], count: int) -> None:
        self.make, self.count = make, count
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Case:
        self.asked.append(number)
        return self.make(number)


@pytest.fixture(scope="module")
def task() -> Task:
    label = Label("box", 4, (255, 0, 0), Code("1", "Box"))
    return Task("boxes", "Boxes", ("MR",), (label,), network=NetworkConfig(context_slices=0))


@pytest.fixture(scope="module")
def model(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random weights."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, Manifest.describe(task, 0), build_network(task.network, task.schema).state_dict())
    return folder


@pytest.fixture(scope="module")
def predictor(task: Task, model: Path) -> Predictor:
    return load_predictor(model, task, "cpu", 4)


@pytest.fixture
def make(task: Task) -> Callable[[int], Case]:
    def made(number: int) -> Case:
        array = np.random.default_rng(number).normal(size=GRID.shape).astype(np.float32)
        mask = np.zeros(GRID.shape, np.uint8)
        mask[1, 4:9, 4:9] = 4
        return Case(Volume(array, GRID, "MR"), Mask(mask, GRID, task.schema), f"p{number // 2}", f"case{number}")

    return made


@pytest.fixture
def training(task: Task, make: Callable[[int], Case]) -> Training:
    found = CaseMetrics("case4", {"box": LabelFigures(0.8, 2.0, 0.7, 1.0, -0.25)}, 0.1)
    fitted = FitResult({}, {"box": 0.8}, (0.9, 0.5), ((2, 0.75),), 2, 1.5, (found,), (0.001, 0.002))
    held_out: Any = ReadCases(make, 7)
    return Training("train", task, FitConfig(seed=5), fitted, [make(100), make(101)], held_out, "cpu", {"job": "7"})


def test_a_record_has_curves_figures_and_the_training_as_it_was_asked_for(
    training: Training, predictor: Predictor
) -> None:
    record = describe(training, predictor)
    assert record.curves == {
        "loss": [(1, 0.9), (2, 0.5)],
        "rate": [(1, 0.001), (2, 0.002)],
        "validation dice": [(2, 0.75)],
    }
    assert record.config["training"]["seed"] == 5
    assert record.metrics == {
        "mean_dice": 0.8,
        "calibration_error": 0.1,
        "steps": 2,
        "seconds": 1.5,
        "cases/box": 1,
        "dice/box": 0.8,
        "hd95_mm/box": 2.0,
        "missed/box": 0,
        "nsd/box": 0.7,
        "volume_error/box": 0.25,
    }
    assert dict(record.tags) == {"job": "7"}


def test_the_mean_of_a_record_leaves_out_rare_labels_as_that_of_the_model_does(task: Task) -> None:
    dot = Label("dot", 9, (0, 0, 255), Code("2", "Dot"))
    rare = replace(task, labels=(*task.labels, dot), rare=("dot",))
    fitted = FitResult({}, {"box": 0.8, "dot": 0.2}, (0.5,), (), 1, 1.5)
    assert figures(Training("train", rare, FitConfig(), fitted, [], [], "cpu"))["mean_dice"] == 0.8


def test_a_record_names_each_case_with_its_split_and_pictures_three_that_were_held_out(
    training: Training, predictor: Predictor
) -> None:
    record = describe(training, predictor)
    assert [(row["name"], row["split"]) for row in record.cases][1:4] == [
        ("case101", "train"),
        ("case0", "held out"),
        ("case1", "held out"),
    ]
    assert list(record.pictures) == ["1 case0", "2 case3", "3 case6"]
    assert all(png.startswith(b"\x89PNG") for png in record.pictures.values())
    held_out: Any = training.held_out
    assert held_out.asked == [*range(7), 0, 3, 6]


def test_checksums_are_those_of_the_voxels(make: Callable[[int], Case]) -> None:
    row = case_row(make(3), "train")
    array = np.random.default_rng(3).normal(size=GRID.shape).astype(np.float32)
    assert row["volume_sha256"] == hashlib.sha256(array.tobytes()).hexdigest()
    assert row["mask_sha256"] == case_row(make(8), "train")["mask_sha256"]
    assert (row["patient"], row["shape"], row["spacing_mm"]) == ("p1", [3, 32, 32], [3.0, 1.0, 1.0])


def test_the_environment_names_packages_hardware_and_threads(training: Training, predictor: Predictor) -> None:
    found = describe(training, predictor).environment
    assert found["packages"]["torch"]
    assert found["device"] == "cpu"
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0


def test_the_environment_is_that_of_the_training_where_it_was_elsewhere(
    training: Training, predictor: Predictor
) -> None:
    usage = Usage("H100", "bf16", 2, 4, peak_mib=5325.0, card_mib=20480.0)
    found = describe(replace(training, fitted=replace(training.fitted, usage=usage)), predictor).environment
    assert {name: found[name] for name in ("device", "precision", "processes", "threads", "peak_mib", "card_mib")} == {
        "device": "H100",
        "precision": "bf16",
        "processes": 2,
        "threads": 4,
        "peak_mib": 5325.0,
        "card_mib": 20480.0,
    }


def test_a_folder_outside_of_any_repository_has_no_commit(tmp_path: Any) -> None:
    assert commit(tmp_path) == ""


def test_a_registry_that_refuses_is_a_warning_with_the_reason(
    training: Training, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (RegistryUnavailable("the disk is full"), OSError("no space")):
        with caplog.at_level(logging.WARNING):
            log: Any = Memory(error)
            assert log_training(log, training, model) is None
    assert "'train' is not written to the registry: the disk is full" in caplog.text
    assert "OSError: no space" in caplog.text


def test_a_run_that_is_told_to_stop_stops_and_writes_nothing(training: Training, model: Path) -> None:
    log: Any = Memory()

    def check() -> None:
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        log_training(log, training, model, check)
    assert log.records == []
    assert log_training(log, training, model) == "id"
    assert len(log.records) == 1


def test_a_model_that_cannot_be_read_costs_the_record_alone(
    training: Training, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log: Any = Memory()
    with caplog.at_level(logging.WARNING):
        assert log_training(log, training, tmp_path) is None
    assert "manifest.json" in caplog.text


def test_means_leave_out_what_has_no_value_and_count_infinite_distances() -> None:
    cases = [
        CaseMetrics("a", {"box": LabelFigures(1.0, 1.0, 1.0, 0.0, 0.5)}, None),
        CaseMetrics("b", {"box": LabelFigures(0.0, inf, 0.0, 1.0, None)}, None),
        CaseMetrics("c", {"box": None}, None),
    ]
    assert means_by_label(cases, ["box", "dot"]) == {
        "box": LabelMeans(2, 0.5, 1.0, 1, 0.5, 0.5),
        "dot": LabelMeans(0, None, None, 0, None, None),
    }
