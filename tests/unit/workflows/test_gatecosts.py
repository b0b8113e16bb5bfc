from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lib.ledger.rows import NewHuman
from lib.taskfile import Task
from lib.training.measure import CaseMetrics, LabelFigures
from lib.workflows import gatecosts
from lib.workflows.casecache import CaseCache, LazyCases
from lib.workflows.services import Services

Label = Callable[..., int]


def test_a_golden_case_in_which_something_is_invented_has_changed(
    services: Services, label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    series = services.ledger.annotations.get(label("g", empty=True)).series_uid
    gate = replace(services.settings.gate, golden=(series,))
    object.__setattr__(services, "settings", replace(services.settings, gate=gate))
    found = LabelFigures(0.0, 1.0, 0.0, 1.0, None)
    cases = {"nothing": {"ball": None, "cube": None}, "a ball": {"ball": found, "cube": None}}
    monkeypatch.setattr(gatecosts, "measured", lambda who, some, report: (CaseMetrics("case", cases[who], 0.0),))
    for both, change in ((("nothing", "a ball"), -1.0), (("a ball", "nothing"), 1.0), (("nothing", "nothing"), 0.0)):
        assert gatecosts.golden_changes(services, task, both, lambda share, message: None) == {series: change}


def test_a_golden_case_is_looked_at_while_a_later_label_of_it_waits_for_its_reviewer(
    services: Services, label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, annotations = services.task(), services.ledger.annotations
    good = label("g", empty=True)
    series = annotations.get(good).series_uid
    slip = NewHuman(series, task.name, "Ann", None, None, nothing_found=True, held_reason="it is empty")
    assert annotations.get(annotations.add_human(slip, accept=True)).is_held
    gate = replace(services.settings.gate, golden=(series,))
    object.__setattr__(services, "settings", replace(services.settings, gate=gate))
    asked: list[int] = []

    def measured(who: str, cases: LazyCases, report: Callable[[float], None]) -> tuple[CaseMetrics, ...]:
        asked.extend(row.id for row in cases.rows)
        return (CaseMetrics("case", {"ball": None, "cube": None}, 0.0),)

    monkeypatch.setattr(gatecosts, "measured", measured)
    assert gatecosts.golden_changes(services, task, ("before", "after"), lambda share, message: None) == {series: 0.0}
    assert asked == [good, good]


def test_a_golden_case_whose_series_left_the_archive_is_not_measured(services: Services, label: Label) -> None:
    series = services.ledger.annotations.get(label("g", seed=3)).series_uid
    gate = replace(services.settings.gate, golden=(series,))
    object.__setattr__(services, "settings", replace(services.settings, gate=gate))
    services.archive.delete_series(series)
    found = gatecosts.golden_changes(services, services.task(), (None, None), lambda share, message: None)
    assert isinstance(found[series], str)


def told(services: Services, task: Task, golden: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float | str]:
    """What the gate hears of a golden series, with models that are alike."""
    gate = replace(services.settings.gate, golden=(golden,))
    settings = replace(services.settings, gate=gate)
    alike = (CaseMetrics("case", {"ball": None, "cube": None}, 0.0),)
    monkeypatch.setattr(gatecosts, "measured", lambda who, some, report: alike)
    both = "before", "after"
    return gatecosts.golden_changes(replace(services, settings=settings), task, both, lambda share, message: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("refusal", [{"modalities": ("MR",)}, {"series_description": "^thorax"}])
def test_a_golden_series_that_a_task_refuses_is_none_of_it(
    services: Services, label: Label, monkeypatch: pytest.MonkeyPatch, refusal: dict[str, object]
) -> None:
    task = services.task()
    other = replace(task, name="other", **refusal)
    series = services.ledger.annotations.get(label("g", empty=True)).series_uid
    assert told(services, other, series, monkeypatch) == {}
    assert told(services, task, series, monkeypatch) == {series: 0.0}
    # what is labelled for a task is kept to, whatever its file says by now
    assert told(services, replace(task, **refusal), series, monkeypatch) == {series: 0.0}


def test_a_golden_series_that_is_labelled_for_another_task_alone_is_that_one_s_and_the_log_says_so(
    services: Services, label: Label, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = services.task()
    other = replace(task, name="other")
    series = services.ledger.annotations.get(label("g", empty=True)).series_uid
    assert told(services, other, series, monkeypatch) == {}
    assert (
        f"golden series {series} is not looked at for task other, which could have it: "
        f"it is labelled for {task.name} alone"
    ) in caplog.text
    assert told(services, task, series, monkeypatch) == {series: 0.0}


@pytest.mark.parametrize("refusal", [{}, {"modalities": ("MR",)}, {"series_description": "^thorax"}])
def test_a_golden_series_whose_label_of_a_task_does_not_count_any_more_is_missed_by_that_task(
    services: Services, label: Label, monkeypatch: pytest.MonkeyPatch, refusal: dict[str, object]
) -> None:
    task, annotations = services.task(), services.ledger.annotations
    series = annotations.get(label("g", empty=True)).series_uid
    mine = NewHuman(series, "other", "Ann", None, None, nothing_found=True)
    annotations.reject(annotations.add_human(mine, accept=True), "rev", "a slip")
    missed = {series: "it has no accepted label of task other"}
    other = replace(task, name="other", **refusal)  # its file may refuse the series by now
    assert told(services, other, series, monkeypatch) == missed


def test_a_golden_series_that_nobody_labelled_or_nobody_knows_is_missed_by_each_task_that_could_have_it(
    services: Services, add_series: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    for name in (task.name, "other"):
        for series in (add_series("g"), "1.2.3"):
            missed = {series: f"it has no accepted label of task {name}"}
            assert told(services, replace(task, name=name), series, monkeypatch) == missed
    assert told(services, replace(task, modalities=("MR",)), add_series("h"), monkeypatch) == {}


class Clocked:
    """Predicts in a time of its own on a machine whose load depends on how often it was asked."""

    def __init__(self, seconds: float, clock: list[float], loads: Callable[[int], float]) -> None:
        self.seconds, self.clock, self.loads = seconds, clock, loads

    def predict(self, volume: object) -> None:
        self.clock.append(self.clock[-1] + self.seconds * self.loads(len(self.clock)))


@pytest.mark.parametrize("cases", [1, 2, 3, 9])
def test_a_load_of_the_machine_in_the_second_half_of_the_measurement_slows_nobody_down(
    services: Services, label: Label, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    rows = [services.ledger.annotations.get(label(f"p{number}", seed=number)) for number in range(min(cases, 3))]
    some = LazyCases(CaseCache(services, services.task()), (rows * 3)[:cases])
    clock = [0.0]
    monkeypatch.setattr(gatecosts, "time", SimpleNamespace(perf_counter=lambda: clock[-1]))
    both = tuple(Clocked(seconds, clock, lambda asked: 3.0 if asked > 6 else 1.0) for seconds in (0.5, 0.6))
    before, after = gatecosts.case_seconds(both, some, lambda share, message: None)
    assert after / before == pytest.approx(0.6 / 0.5)
    assert 0.5 <= before <= 1.5
    assert len(clock) - 1 == 12
