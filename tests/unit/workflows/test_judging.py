import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import NotFound
from lib.inference.model import Manifest, build_network, save_model
from lib.ledger.rows import NewHuman
from lib.training.measure import CaseMetrics, LabelFigures
from lib.workflows import judging
from lib.workflows.anchors import contenders, line
from lib.workflows.casecache import CaseCache, LazyCases
from lib.workflows.collect import CalibrationCases, PromotionCases, accepted_ids, collect
from lib.workflows.gate import Verdict
from lib.workflows.heartbeat import Stopped
from lib.workflows.judging import Exam, decide
from lib.workflows.models import load_version
from lib.workflows.promotion import promote, rollback
from lib.workflows.services import Services

Label = Callable[..., int]


Quality = float | tuple[float, float]
"""Dice of both labels, or of ball and cube."""


def stub_of(
    labels: tuple[str, ...], quality: dict[int, Quality], measurements: list[tuple[int, int]]
) -> Callable[..., tuple[CaseMetrics, ...]]:
    """Measures a version by its number: its Dice by label and case lie around its quality."""

    def measured(version, cases, report=lambda share: None):
        report(1.0)
        measurements.append((version, len(cases)))
        dice = np.array(quality[version]) + 0.002 * np.random.default_rng(version).standard_normal(
            (len(cases.rows), len(labels))
        )
        figures = ([LabelFigures(value, 1.0, value, 0.0, 0.0) for value in row] for row in dice)
        return tuple(CaseMetrics("case", dict(zip(labels, row, strict=True)), 0.02) for row in figures)

    return measured


@pytest.fixture
def judge(services: Services, label: Label, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verdict]:
    """Judge the newest of some versions, whose Dice on each label is given by version; the first one serves."""
    task = services.task()
    quality: dict[int, Quality] = {}
    heard: list[str] = []
    measurements: list[tuple[int, int]] = []
    numbers = count()

    monkeypatch.setattr(judging, "load_version", lambda services, task, model: model.version)
    monkeypatch.setattr(judging, "_measured", stub_of(services.task().schema.names, quality, measurements))
    monkeypatch.setattr(judging, "seconds_a_case", lambda predictor, cases: 1.0)

    def add_labels(patients: int) -> None:
        for _ in range(patients):
            label(f"x{next(numbers)}", "promotion", empty=True)

    def act(
        *dice: Quality,
        patients: int,
        versions_first: bool = False,
        before: Callable[[], object] = lambda: None,
        **gate: object,
    ) -> Verdict:
        settings = replace(services.settings, gate=replace(services.settings.gate, **gate))
        object.__setattr__(services, "settings", settings)
        if not versions_first:
            add_labels(patients)
        for value in dice:
            save_model(
                tmp_path / "m",
                Manifest.describe(task, 0, {}, ()),
                build_network(task.network, task.schema).state_dict(),
            )
            version = services.registry.register(task.name, tmp_path / "m", {})
            quality[version] = value
            if version == 1:
                services.registry.promote(task.name, 1)
        if versions_first:
            add_labels(patients)
        cache = CaseCache(services, task)
        ids = accepted_ids(services, task, PromotionCases)
        cases = collect(services, cache, PromotionCases, ids, lambda share, message: None)
        exam = Exam(version, {"mean_dice": 0.9}, 0.9, CalibrationCases(cache, ()), cases)
        return decide(services, task, exam, lambda share, message: heard.append(message), before)

    act.heard, act.measurements = heard, measurements  # type: ignore[attr-defined]
    return act


def test_a_shown_gain_serves_and_its_figures_are_kept_in_three_places(services: Services, judge) -> None:
    verdict = judge(0.80, 0.84, patients=6)
    task = services.task().name
    assert verdict.promote
    assert services.registry.champion(task).version == 2
    assert verdict.mean.difference == pytest.approx(0.04, abs=0.003)
    (row,) = services.ledger.models.list(task)
    noted = json.loads(services.registry.get(task, 2).tags["gate"])
    (audited,) = [entry for entry in services.ledger.audit.list() if entry.action == "model.gate"]
    assert (row.verdict, row.reason) == ("promoted", verdict.reason)
    assert Verdict.from_dict(row.metrics["gate"]) == Verdict.from_dict(noted) == verdict
    assert Verdict.from_dict(audited.details) == verdict
    assert row.metrics["mean_dice"] == 0.9
    assert judge.heard == [
        "comparing the champion on the promotion patients",
        "comparing the challenger on the promotion patients",
    ]


def test_what_a_challenger_needs_to_serve_is_made_before_it_serves_and_for_no_other(services: Services, judge) -> None:
    task, seen = services.task().name, list[tuple[int, int]]()

    def look() -> None:
        seen.append((services.registry.champion(task).version, len(services.ledger.models.list(task))))

    judge(0.80, 0.76, patients=6, before=look)
    assert seen == []
    judge(0.84, patients=0, before=look)
    assert seen == [(1, 1)]  # the champion from before, and no verdict but that of the worse one
    assert services.registry.champion(task).version == 3


def test_a_verdict_is_not_written_down_when_what_the_challenger_needs_is_not_made(services: Services, judge) -> None:
    def stop() -> None:
        raise Stopped("stopped while learning")

    with pytest.raises(Stopped):
        judge(0.80, 0.84, patients=6, before=stop)
    task = services.task().name
    assert services.registry.champion(task).version == 1
    assert services.ledger.models.list(task) == []
    assert [entry for entry in services.ledger.audit.list() if entry.action == "model.gate"] == []


def test_a_loss_is_recorded_and_not_served(services: Services, judge) -> None:
    verdict = judge(0.80, 0.76, patients=6)
    task = services.task().name
    assert not verdict.promote
    assert services.registry.champion(task).version == 1
    assert services.ledger.models.list(task)[0].verdict == "kept"
    assert "gate" in services.registry.get(task, 2).tags


def test_a_better_one_stays_out_for_want_of_patients_and_the_number_is_told(services: Services, judge) -> None:
    verdict = judge(0.80, 0.90, patients=3)
    assert (verdict.promote, verdict.patients, verdict.missing) == (False, 3, 2)


def test_no_promotion_label_at_all_keeps_the_champion_where_such_patients_are_expected(
    services: Services, judge
) -> None:
    ledger = replace(services.settings.ledger, splits={"pool": 0.7, "calibration": 0.15, "promotion": 0.15})
    object.__setattr__(services, "settings", replace(services.settings, ledger=ledger))
    verdict = judge(0.80, 0.90, patients=0)
    assert (verdict.promote, verdict.missing) == (False, 5)


def test_a_first_models_verdict_survives_json() -> None:
    verdict = judging.unopposed(None, None, 0)
    assert verdict.promote
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_a_verdict_that_was_given_stands_and_nothing_is_measured_again(services: Services, judge) -> None:
    first = judge(0.80, 0.84, patients=6)
    judge.heard.clear()
    cache = CaseCache(services, services.task())
    exam = Exam(2, {}, None, CalibrationCases(cache, ()), PromotionCases(cache, ()))
    assert decide(services, services.task(), exam, lambda share, message: judge.heard.append(message)) == first
    assert judge.heard == []


def test_losses_within_the_margin_do_not_add_up_over_promotions(services: Services, judge) -> None:
    first = judge((0.80, 0.80), (0.84, 0.785), patients=6)
    assert (first.promote, first.anchored) == (True, ())
    judge.measurements.clear()
    second = judge((0.88, 0.77), patients=0)
    assert all(label.holds for label in second.labels)
    assert second.mean.holds
    assert not second.promote
    ball, cube = second.anchored
    assert (ball.name, ball.against, ball.holds) == ("ball", 1, True)
    assert (cube.name, cube.against, cube.holds) == ("cube", 1, False)
    assert cube.difference == pytest.approx(-0.03, abs=0.003)
    assert "cube -0.0" in second.reason
    assert second.reason.endswith("lack at most 0.02 of version 1, the best before the champion in this label")
    assert judge.measurements == [(2, 6), (3, 6)]  # of version 1 nothing had to be measured again
    assert Verdict.from_dict(json.loads(json.dumps(second.to_dict()))) == second


def test_what_came_since_is_measured_for_the_version_that_had_a_label_best_and_for_no_other(
    services: Services, judge
) -> None:
    judge((0.80, 0.80), (0.84, 0.785), patients=6)
    judge((0.88, 0.785), patients=0)
    judge((0.92, 0.785), patients=0)
    judge.measurements.clear()
    verdict = judge((0.96, 0.785), patients=2)
    assert judge.measurements == [(4, 8), (5, 8), (1, 2), (3, 2)]
    assert [(label.name, label.against, label.patients) for label in verdict.anchored] == [
        ("ball", 3, 8),
        ("cube", 1, 8),
    ]
    assert verdict.promote
    judge.measurements.clear()
    judge((0.5, 0.5), patients=0)
    assert judge.measurements == [(5, 8), (6, 8)]


def test_a_patient_with_many_cases_counts_once_where_the_best_former_version_is_sought() -> None:
    champion = np.full((5, 1), 0.8)
    often, seldom = np.array([[0.1]] * 3 + [[0.0]] * 2), np.array([[0.0]] * 3 + [[0.1]] * 2)
    known = {1: (champion + often, np.ones(5, np.bool_)), 2: (champion + seldom, np.ones(5, np.bool_))}
    assert contenders(known, champion, ("a", "b", "c", "d", "e")) == (1,)
    assert contenders(known, champion, ("a", "a", "a", "d", "e")) == (2,)
    unseen = np.zeros(5, np.bool_)
    assert contenders({1: known[1], 2: (known[2][0], unseen)}, champion, ("a", "a", "a", "d", "e")) == (1,)


def test_a_decision_by_hand_starts_the_line_of_anchors_anew(services: Services, judge) -> None:
    task = services.task()
    judge((0.80, 0.80), (0.84, 0.785), patients=6)
    judge((0.90, 0.775), patients=0)
    assert (services.registry.served(task.name), line(services, task)) == ((1, 2), (1,))
    promote(services, task, 3, "by hand: the cube matters less")
    assert (services.registry.served(task.name), line(services, task)) == ((1, 2, 3), ())
    assert judge((0.95, 0.77), patients=0).promote
    assert line(services, task) == (3,)
    rollback(services, task, "by hand")
    assert services.registry.served(task.name) == (1, 2, 3)


def test_a_former_version_that_cannot_be_loaded_is_no_anchor_and_stops_no_verdict(
    services: Services, judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judge((0.80, 0.80), (0.84, 0.785), patients=6)

    def load(services, task, model):
        if model.version == 1:
            raise NotFound("weights are gone")
        return model.version

    monkeypatch.setattr(judging, "load_version", load)
    assert judge((0.90, 0.77), patients=1).promote
    assert "version 1 is no anchor of this verdict: weights are gone" in caplog.text


@pytest.mark.parametrize(
    ("measured", "stub", "said"),
    [
        ("seconds_a_case", lambda version, cases: float(version), "time a case 2.00 s against 1.00 s"),
        (
            "mean_calibration_error",
            lambda cases: 0.01 if cases[0].labels["ball"].dice < 0.82 else 0.09,
            "calibration error 0.090 against 0.010",
        ),
        ("golden_changes", lambda *_: {"1.2.3": -0.5}, "golden case 1.2.3 changed by -0.5000"),
    ],
)
def test_what_a_gain_costs_reaches_the_gate_the_right_way_round(
    judge, monkeypatch: pytest.MonkeyPatch, measured: str, stub: Callable[..., object], said: str
) -> None:
    monkeypatch.setattr(judging, measured, stub)
    verdict = judge(0.80, 0.84, patients=6)
    assert not verdict.promote
    assert said in verdict.reason


def test_a_golden_case_in_which_something_is_invented_has_changed(
    services: Services, label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    series = services.ledger.annotations.get(label("g", empty=True)).series_uid
    gate = replace(services.settings.gate, golden=(series,))
    object.__setattr__(services, "settings", replace(services.settings, gate=gate))
    found = LabelFigures(0.0, 1.0, 0.0, 1.0, None)
    cases = {"nothing": {"ball": None, "cube": None}, "a ball": {"ball": found, "cube": None}}
    monkeypatch.setattr(judging, "_measured", lambda who, some: (CaseMetrics("case", cases[who], 0.0),))
    assert judging.golden_changes(services, task, ("nothing", "a ball")) == {series: -1.0}
    assert judging.golden_changes(services, task, ("a ball", "nothing")) == {series: 1.0}
    assert judging.golden_changes(services, task, ("nothing", "nothing")) == {series: 0.0}


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

    def measured(who: str, cases: LazyCases) -> tuple[CaseMetrics, ...]:
        asked.extend(row.id for row in cases.rows)
        return (CaseMetrics("case", {"ball": None, "cube": None}, 0.0),)

    monkeypatch.setattr(judging, "_measured", measured)
    assert judging.golden_changes(services, task, ("before", "after")) == {series: 0.0}
    assert asked == [good, good]


def test_a_golden_case_that_changed_keeps_the_champion(services: Services, judge, label: Label) -> None:
    golden = services.ledger.annotations.get(label("g", empty=True)).series_uid
    assert judge(0.80, 0.84, patients=6, golden=(golden, "1.2.3")).golden.keys() == {golden}
    assert services.registry.champion(services.task().name).version == 2


def test_labels_that_came_after_the_champion_are_the_newest(services: Services, judge) -> None:
    older = judge(0.80, 0.801, patients=6)
    assert older.newest is None
    for row in services.ledger.annotations.accepted(services.task().name):
        services.ledger.annotations.reject(row.id, "rev", "to start over")
    newer = judge(0.80, 0.84, patients=6, versions_first=True)
    assert newer.newest.patients == 6
    assert newer.promote


def test_a_model_compared_with_itself_differs_in_nothing_and_takes_time(
    services: Services, label: Label, tmp_path: Path
) -> None:
    task = services.task()
    golden = label("g", seed=3)
    object.__setattr__(
        services,
        "settings",
        replace(
            services.settings,
            gate=replace(services.settings.gate, golden=(services.ledger.annotations.get(golden).series_uid,)),
        ),
    )
    label("x1", "promotion", seed=1, cube=True)
    label("x2", "promotion", seed=2)
    network = build_network(task.network, task.schema)
    save_model(tmp_path / "m", Manifest.describe(task, 0, {}, ()), network.state_dict())
    model = services.registry.get(task.name, services.registry.register(task.name, tmp_path / "m", {}))
    predictor = load_version(services, task, model)
    cache = CaseCache(services, task)
    ids = accepted_ids(services, task, PromotionCases)
    cases = collect(services, cache, PromotionCases, ids, lambda share, message: None)
    found = judging.compare(services, task, model, (predictor, predictor), cases, lambda share, message: None)
    assert found.patients == ("x1", "x2")
    assert found.champion.shape == (2, 2)
    assert np.array_equal(found.champion, found.challenger, equal_nan=True)
    assert not np.isnan(found.champion[:, 0]).any()
    assert found.calibration_error[0] == found.calibration_error[1] > 0
    assert min(found.seconds) > 0
    assert list(found.golden.values()) == [0.0]
    assert not found.newest.any()
