import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib.core.errors import InvalidInput, RegistryUnavailable
from lib.registry.client import connect
from lib.registry.config import RegistryConfig
from lib.registry.registry import Registry
from lib.registry.tracking import RunLog, RunRecord, flat, metric_name

PNG = b"\x89PNG\r\n\x1a\n rest"


@pytest.fixture
def runs(located: RegistryConfig, tmp_path: Path) -> RunLog:
    return RunLog(located, tmp_path / "runs")


def record(task: str, **changes: Any) -> RunRecord:
    values = RunRecord(
        task=task,
        name="train on two heads",
        config={"name": task, "training": {"steps": 3, "augment": {"flips": ["rows"]}}, "rare": []},
        curves={"loss": [(1, 0.9), (2, 0.5), (3, 0.25)], "dice": [(3, 0.75)]},
        metrics={"mean_dice": 0.75, "hd95/kidney (left)": 4.0},
        environment={"python": "3.11.7", "packages": {"torch": "2.15.0"}},
        cases=[{"name": "a", "patient": "p1", "split": "train", "volume_sha256": "00"}],
        pictures={"1 case/a": PNG},
        tags={"job": "7"},
    )
    return replace(values, **changes)


def read(located: RegistryConfig, run_id: str) -> Any:
    return connect(located.uri).get_run(run_id)


def test_a_run_keeps_config_figures_tags_and_its_end(runs: RunLog, located: RegistryConfig, task: str) -> None:
    found = read(located, runs.write(record(task)))
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "train on two heads"
    assert found.data.tags["job"] == "7"
    assert found.data.params == {
        "name": task,
        "training.steps": "3",
        "training.augment.flips": '["rows"]',
        "rare": "[]",
    }
    assert found.data.metrics == {"loss": 0.25, "dice": 0.75, "mean_dice": 0.75, "hd95/kidney _left_": 4.0}


def test_a_curve_keeps_its_steps_beyond_one_batch(runs: RunLog, located: RegistryConfig, task: str) -> None:
    losses = [(step, 1 / step) for step in range(1, 2502)]
    run_id = runs.write(record(task, curves={"loss": losses}))
    history = connect(located.uri).get_metric_history(run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == losses


def test_what_is_no_number_leaves_the_curves(runs: RunLog, located: RegistryConfig, task: str) -> None:
    curves = {"loss": [(1, 1.0), (2, math.nan), (3, math.inf)]}
    run_id = runs.write(record(task, curves=curves, metrics={"hd95": math.inf}))
    history = connect(located.uri).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0)]
    assert "hd95" not in read(located, run_id).data.metrics


def test_task_environment_data_and_pictures_are_files_of_the_run(runs: RunLog, tmp_path: Path, task: str) -> None:
    run_id = runs.write(record(task))
    folder = tmp_path / "runs" / task / run_id / "artifacts"
    assert json.loads((folder / "task.json").read_text())["training"]["steps"] == 3
    assert json.loads((folder / "environment.json").read_text())["packages"] == {"torch": "2.15.0"}
    assert json.loads((folder / "data.json").read_text())[0]["patient"] == "p1"
    assert (folder / "pictures" / "1 case_a.png").read_bytes() == PNG


def test_runs_of_a_task_stand_together_and_beside_its_versions(
    runs: RunLog, located: RegistryConfig, registry: Registry, weights: Path, task: str
) -> None:
    first, second = runs.write(record(task)), RunLog(located, Path("elsewhere")).write(record(task, pictures={}))
    assert read(located, first).info.experiment_id == read(located, second).info.experiment_id
    assert registry.register(task, weights, {"mean_dice": 0.75}) == 1
    assert [version.version for version in registry.list(task)] == [1]


def test_a_folder_that_cannot_be_written_fails_the_record_with_the_reason(
    located: RegistryConfig, tmp_path: Path, task: str
) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    log = RunLog(located, tmp_path / "runs")
    with pytest.raises(RegistryUnavailable, match="files of a run"):
        log.write(record(task))
    client = connect(located.uri)
    (run,) = client.search_runs([client.get_experiment_by_name(task).experiment_id])
    assert run.info.status == "FAILED"


def test_leaves_of_a_tree_get_dotted_names_and_a_length_that_is_taken() -> None:
    tree = {"a": {"b": 1, "c d": None}, "e": [1, {"f": 2}], "g": "text", "h": "x" * 7000}
    found = dict(flat(tree))
    assert found["h"] == "x" * 5999 + "…"
    del found["h"]
    assert found == {"a.b": "1", "a.c d": "null", "e": '[1, {"f": 2}]', "g": "text"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dice/liver", "dice/liver"), ("dice/Nö (1)", "dice/Nö _1_"), ("/a//../b", "a/b"), ("..", "_"), ("a:b", "a_b")],
)
def test_names_of_figures_are_made_such_that_mlflow_takes_them(name: str, expected: str) -> None:
    assert metric_name(name) == expected


def test_a_record_says_what_it_belongs_to() -> None:
    with pytest.raises(InvalidInput, match="needs a task and a name"):
        record("")
