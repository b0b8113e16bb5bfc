import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lib.core.values import Mask
from lib.ledger.rows import AnnotationRow
from lib.training.data import Case, Coverage
from lib.training.usage import Usage
from lib.workflows import morning
from lib.workflows.casecache import CaseCache, LazyCases
from lib.workflows.casechanges import changes, compare, sample
from lib.workflows.gate import Verdict
from lib.workflows.heartbeat import Stopped
from lib.workflows.morning import Night, duration, keep_curves, morning_report
from lib.workflows.paired import Interval
from lib.workflows.report import Failure
from lib.workflows.reportfacts import corrections, failures, learned
from lib.workflows.reportfiles import VALUES
from lib.workflows.retrain import request_retrain
from lib.workflows.services import Services


def case_of(services: Services, number: int, ball_rows: int) -> Case:
    """A made-up case whose annotation is a block of so many rows."""
    from lib.core.geometry import Geometry
    from lib.core.values import Volume

    grid = Geometry.from_spacing((3, 16, 16), (3.0, 1.0, 1.0))
    return Case(
        Volume(np.zeros(grid.shape, np.float32), grid, "CT"), block(services, grid, ball_rows), "p", f"{number}"
    )


def block(services: Services, grid: Any, rows: int, cube: bool = False) -> Mask:
    array = np.zeros(grid.shape, np.uint8)
    array[1, :rows] = 3
    array[2, :2, :2] = 1 if cube else 0
    return Mask(array, grid, services.task().schema)


class Says:
    """Predicts blocks of given numbers of rows, case after case."""

    def __init__(self, services: Services, rows: list[int]) -> None:
        self._services, self._rows = services, iter(rows)

    def predict(self, volume: Any) -> Any:
        return SimpleNamespace(mask=block(self._services, volume.geometry, next(self._rows)))


def test_the_cases_that_changed_most_come_first_with_pictures(services: Services) -> None:
    cases = [case_of(services, number, 8) for number in range(5)]
    before, after = Says(services, [4, 8, 6, 8, 8]), Says(services, [8, 4, 8, 8, 6])
    told: list[str] = []
    found = changes(before, after, cases, lambda _, message: told.append(message), shown=1)  # type: ignore[arg-type]
    assert [(change.name, change.champion, change.challenger) for change in found.improved] == [
        ("0", pytest.approx(2 * 4 / 12), 1.0)
    ]
    assert [change.name for change in found.worsened] == ["1"]
    assert all(change.picture.startswith(b"\x89PNG") for change in (*found.improved, *found.worsened))
    assert found.compared == 5
    assert told[-1] == "comparing case 5 of 5 for the report"


def test_of_many_cases_a_sample_is_compared_and_its_size_is_told(services: Services) -> None:
    cases = [case_of(services, number, 8) for number in range(30)]
    before, after = Says(services, [4] * 4), Says(services, [8] * 4)
    told: list[str] = []
    found = changes(before, after, cases, lambda _, message: told.append(message), most=4, seed=3)  # type: ignore[arg-type]
    assert (found.compared, found.of) == (4, 30)
    assert sorted(change.name for change in found.improved) == sorted(str(number) for number in sample(30, 4, 3))
    assert told[-1] == "comparing case 4 of 4 for the report"


def test_a_sample_draws_each_case_alike_and_the_same_ones_for_the_same_seed() -> None:
    assert sample(5, 0, 0) == sample(5, 5, 0) == sample(5, 9, 0) == (0, 1, 2, 3, 4)
    assert sample(500, 40, 7) == sample(500, 40, 7) != sample(500, 40, 8)
    drawn = [number for seed in range(1000) for number in sample(10, 3, seed)]
    counts = np.bincount(drawn, minlength=10)
    assert counts.sum() == 3000
    assert abs(counts - 300).max() < 4 * (1000 * 0.3 * 0.7) ** 0.5


def test_what_only_one_model_invents_costs_that_model_alone(services: Services) -> None:
    case = case_of(services, 0, 8)
    right = block(services, case.volume.geometry, 8)
    invents = block(services, case.volume.geometry, 8, cube=True)
    found = compare(case, invents, right)
    assert found is not None
    assert (found.champion, found.challenger) == (0.5, 1.0)
    only_ball = replace(case, coverage=Coverage(labels=("ball",)))
    spoken = compare(only_ball, invents, right)
    assert spoken is not None
    assert spoken.champion == 1.0
    empty = case_of(services, 1, 0)
    assert compare(empty, empty.mask, empty.mask) is None


def row(number: int, author: str, changed: int | None, **voxels: int) -> AnnotationRow:
    unset: dict[str, Any] = dict.fromkeys(AnnotationRow.__slots__)
    known = {"id": number, "series_uid": f"1.{number}", "author": author, "voxels": voxels, "changed_voxels": changed}
    return AnnotationRow(**{**unset, **known})


def test_annotations_are_counted_by_label_annotator_and_site() -> None:
    rows = [row(1, "bert", 5, ball=9, cube=0), row(2, "anna", None, ball=3, cube=2), row(3, "anna", 11, ball=1)]
    found = learned(rows, {"1.1": "North", "1.2": "North", "1.3": ""})
    assert found == {
        "label": {"ball": 3, "cube": 1},
        "annotator": {"anna": 2, "bert": 1},
        "site": {"North": 2, "unknown": 1},
    }
    assert list(found["site"]) == ["North", "unknown"]
    by = corrections([*rows, row(4, "anna", 20, ball=1)])
    assert (by["anna"].annotations, by["anna"].drafts, by["anna"].median_changed, by["anna"].most_changed) == (
        3,
        2,
        15.5,
        20,
    )


def test_what_was_refused_or_left_out_is_listed_with_its_reason(
    services: Services, add_series: Callable[..., str]
) -> None:
    uid = add_series("p1")
    services.ledger.series.refuse(uid, "slice gaps differ", services.ledger.series.get(uid).instances)
    services.ledger.annotations.reject_seg("1.2.3", None, services.task().name, "no label of the task")
    services.ledger.annotations.reject_seg("1.2.4", None, "another_task", "not ours")
    assert failures(services, services.task(), [7]) == (
        Failure("annotation", "7", "could not be read, or is no label any more"),
        Failure("SEG", "1.2.3", "no label of the task"),
        Failure("series", uid, "slice gaps differ"),
    )


@pytest.fixture
def night(services: Services, label: Callable[..., int], tmp_path: Path) -> Night:
    """A first training of two of three planned annotations, one more to measure on."""
    task = services.task()
    ids = (label("p1", seed=1, cube=True), label("p2", seed=2), label("p3", seed=3))
    held_out = label("c1", "calibration", seed=4)
    request_retrain(services, task)
    job = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert job is not None
    cases = LazyCases(CaseCache(services, task), [services.ledger.annotations.get(held_out)])
    verdict = Verdict(True, "the first model", mean=Interval("mean", 0, None, None, None, None, None, 0.0))
    return Night(task, job, 1, verdict, ids, ids[:2], cases, tmp_path)


def silent(share: float, message: str) -> None:
    """Hears nothing."""


def test_a_night_is_written_with_its_figures(services: Services, night: Night) -> None:
    usage = Usage("H100", "bf16", 2, 4, peak_mib=5325.0, card_mib=20480.0)
    fitted: Any = SimpleNamespace(losses=(1.0, 0.5), curve=((2, 0.75),), seconds=150.0, usage=usage)
    keep_curves(night.folder, fitted)
    path = morning_report(services, night, silent)
    assert path is not None
    assert path.parent.parent == services.settings.var / "reports"
    values = json.loads((path.parent / VALUES).read_text())
    assert (values["version"], values["champion"], values["promoted"]) == (1, None, True)
    assert (values["annotations"], values["new"], values["compared"]) == (2, 2, 0)
    assert values["learned"]["label"] == {"ball": 2, "cube": 1}
    assert values["learned"]["annotator"] == {"Ann": 2}
    assert values["curves"] == {"loss": [[1, 1.0], [2, 0.5]], "validation Dice": [[2, 0.75]]}
    assert values["costs"].pop("this attempt").endswith(" s")
    assert values["costs"] == {
        "training": "2 min",
        "peak memory": "5.2 GiB in each of 2 processes",
        "peak memory of the card": "20.0 GiB in each of 2 processes",
        "device": "H100, bf16",
        "threads": "4 in each of 2 processes",
    }
    assert [failure["name"] for failure in values["failures"]] == [str(night.planned[2])]
    assert values["in_the_field"] == (
        "no corrected draft of the random lane yet, 0 cases of others; no reference yet: 0 of 20 cases of all versions"
    )


def test_a_champion_is_compared_case_by_case(services: Services, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {1: SimpleNamespace(version=1), 2: SimpleNamespace(version=2)}
    registry: Any = SimpleNamespace(get=lambda task, version: models[version], path=lambda *_: services.settings.var)
    rows = {1: [2], 2: [32]}
    monkeypatch.setattr(morning, "load_version", lambda _, task, model: Says(services, rows[model.version]))
    later = replace(night, version=2, verdict=replace(night.verdict, champion=1, promote=False))
    with_both = replace(services, registry=registry)
    monkeypatch.setattr(morning, "_learned_before", lambda *_: {night.learned[0]})
    path = morning_report(with_both, later, silent)
    assert path is not None
    values = json.loads((path.parent / VALUES).read_text())
    assert (values["compared"], values["comparable"], values["new"], values["promoted"]) == (1, 1, 1, False)
    (change,) = values["improved"]
    assert change["name"].startswith("annotation ")
    assert change["champion"] == 0.0 < change["challenger"]
    assert "data:image/png;base64," in path.read_text()


def test_a_report_that_cannot_be_written_is_a_warning_and_a_stop_stays_one(
    services: Services, night: Night, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (services.settings.var / "reports").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert morning_report(services, night, silent) is None
    assert "version 1 is not written: " in caplog.text

    def stop(*_: object) -> None:
        raise Stopped("stopped")

    monkeypatch.setattr(morning, "describe", stop)
    with pytest.raises(Stopped):
        morning_report(services, night, silent)


@pytest.mark.parametrize(("seconds", "words"), [(59.6, "60 s"), (119, "119 s"), (150, "2 min"), (7500, "2.1 h")])
def test_times_are_told_in_a_unit_that_fits(seconds: float, words: str) -> None:
    assert duration(seconds) == words
