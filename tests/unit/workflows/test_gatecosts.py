from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lib.ledger.rows import NewHuman
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
