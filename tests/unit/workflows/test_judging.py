import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import LedgerUnavailable, NotFound, WeightsUnavailable
from lib.inference.model import Manifest, build_network, save_model
from lib.ledger.models import Models
from lib.training.measure import CaseMetrics, LabelFigures
from lib.workflows import gatecosts, judging
from lib.workflows.anchors import contenders, line
from lib.workflows.casecache import CaseCache
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


def gate_rows(services: Services, version: int) -> list[Verdict]:
    """What the audit trail has of the gate's verdicts on a version."""
    rows = services.ledger.audit.list(subject=f"{services.task().name} {version}")
    return [Verdict.from_dict(row.details) for row in rows if row.action == "model.gate"]


def allowed() -> None:
    """Nothing stands against it."""


@pytest.fixture
def judge(services: Services, label: Label, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verdict]:
    """Judge the newest of some versions, whose Dice on each label is given by version; the first one serves."""
    task = services.task()
    quality: dict[int, Quality] = {}
    heard: list[str] = []
    measurements: list[tuple[int, int]] = []
    numbers = count()

    monkeypatch.setattr(judging, "load_version", lambda services, task, model: model.version)
    stub = stub_of(services.task().schema.names, quality, measurements)
    monkeypatch.setattr(judging, "measured", stub)
    monkeypatch.setattr(gatecosts, "measured", stub)
    monkeypatch.setattr(judging, "case_seconds", lambda predictors, cases, tell: (1.0, 1.0))

    def add_labels(patients: int) -> None:
        for _ in range(patients):
            label(f"x{next(numbers)}", "promotion", empty=True)

    def act(
        *dice: Quality,
        patients: int,
        versions_first: bool = False,
        before: Callable[[], object] = allowed,
        hold: Callable[[], None] = allowed,
        tell: Callable[[float, str], None] | None = None,
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
        return decide(services, task, exam, tell or (lambda share, message: heard.append(message)), before, hold)

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
        ("case_seconds", lambda versions, cases, tell: versions, "time a case 2.00 s against 1.00 s"),
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


def test_a_golden_case_that_nobody_labelled_or_that_cannot_be_read_keeps_the_champion_and_is_named(
    services: Services, judge, label: Label
) -> None:
    golden = services.ledger.annotations.get(label("g", empty=True)).series_uid
    unreadable = services.ledger.annotations.get(label("h", empty=True)).series_uid
    services.ledger.annotations.reject(services.ledger.annotations.list(series_uid=unreadable)[0].id, "rev", "slip")
    verdict = judge(0.80, 0.84, patients=6, golden=(golden, unreadable, "1.2.3"))
    nobody = f"it has no accepted label of task {services.task().name}"
    assert verdict.golden.keys() == {golden, unreadable, "1.2.3"}
    assert (verdict.golden[unreadable], verdict.golden["1.2.3"]) == (nobody, nobody)
    assert not verdict.promote
    assert f"golden case 1.2.3 could not be measured ({nobody}), allowed -0.01" in verdict.reason
    assert f"golden case {golden}" not in verdict.reason
    assert services.registry.champion(services.task().name).version == 1
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    assert judge(0.85, patients=0, golden=(golden,)).promote


@pytest.mark.parametrize("said", ["timing both models", "comparing golden series", ""])
def test_a_stop_after_both_are_measured_promotes_nobody(
    services: Services, judge, label: Label, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    golden = services.ledger.annotations.get(label("g", empty=True)).series_uid

    def stop() -> None:
        raise Stopped("it was cancelled or taken over")

    def tell(share: float, message: str) -> None:
        if said and message.startswith(said):
            stop()

    def timed(versions: object, cases: object, tell: Callable[[float, str], None]) -> tuple[float, float]:
        tell(1.0, "timing both models")
        return 1.0, 1.0

    monkeypatch.setattr(judging, "case_seconds", timed)
    with pytest.raises(Stopped):
        judge(0.80, 0.84, patients=6, golden=(golden,), tell=tell, hold=lambda: None if said else stop())
    task = services.task().name
    assert services.registry.champion(task).version == 1
    assert services.ledger.models.list(task) == []


@pytest.mark.parametrize("dice", [0.84, 0.76])
def test_who_is_not_to_decide_any_more_leaves_the_verdict_of_who_is(services: Services, judge, dice: float) -> None:
    task = services.task().name
    theirs = '{"promote": false, "reason": "the new holder\'s"}'

    def taken_over() -> None:
        services.registry.note(task, 2, "gate", theirs)
        raise Stopped("it was taken over")

    with pytest.raises(Stopped):
        judge(0.80, dice, patients=6, hold=taken_over)
    assert services.registry.get(task, 2).tags["gate"] == theirs
    assert [entry for entry in services.ledger.audit.list() if entry.action == "model.gate"] == []


def test_a_verdict_that_another_champion_made_void_is_in_no_audit_trail(services: Services, judge) -> None:
    task = services.task()
    judge(0.80, 0.84, patients=6)

    def by_hand() -> None:
        if services.registry.champion(task.name).version == 2:
            rollback(services, task, "by hand, in the middle of the gate")

    judge(0.88, patients=0, before=by_hand)
    told = [entry.details for entry in services.ledger.audit.list() if entry.subject == f"{task.name} 3"]
    assert [details["champion"] for details in told if "champion" in details] == [1]


def test_a_champion_that_another_took_over_from_meanwhile_is_not_replaced_unseen(services: Services, judge) -> None:
    task = services.task()
    judge(0.80, 0.84, patients=6)

    def by_hand() -> None:
        if services.registry.champion(task.name).version == 2:
            rollback(services, task, "by hand, in the middle of the gate")

    verdict = judge(0.88, patients=0, before=by_hand)
    assert (verdict.promote, verdict.champion) == (True, 1)
    assert services.registry.served(task.name) == (1, 3)


@pytest.mark.parametrize("dice", [0.84, 0.76])
def test_a_verdict_of_a_process_that_was_slow_and_went_on_stands_and_is_not_judged_again(
    services: Services, judge, dice: float
) -> None:
    """It was held up behind its last look at its job, which this process has taken over."""
    task = services.task()
    slow = Verdict(True, "better, said the slow one", champion=1)

    def tell(share: float, message: str) -> None:
        if message == "comparing the challenger on the promotion patients":
            promote(services, task, 2, slow.reason, {"gate": slow.to_dict()})

    assert judge(0.80, dice, patients=6, tell=tell) == slow
    assert judge.measurements == [(1, 6), (2, 6)]  # once: version 2 is not compared with itself
    assert services.registry.served(task.name) == (1, 2)
    rows = [(row.version, row.verdict, row.reason) for row in services.ledger.models.list(task.name)]
    assert rows == [(2, "promoted", slow.reason)]
    assert gate_rows(services, 2) == [slow]


def test_a_version_that_a_person_promoted_meanwhile_is_told_as_promoted(services: Services, judge) -> None:
    task = services.task()
    verdict = judge(0.80, 0.84, patients=6, before=lambda: promote(services, task, 2, "by hand"))
    assert (verdict.promote, verdict.reason) == (True, "by hand")
    assert [row.verdict for row in services.ledger.models.list(task.name)] == ["promoted"]
    assert gate_rows(services, 2) == []


def test_a_verdict_that_found_no_room_in_the_ledger_is_in_no_audit_trail_and_the_one_that_counts_once(
    services: Services, judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()

    def full(*_: object) -> int:
        raise LedgerUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Models, "begin", full)
        with pytest.raises(LedgerUnavailable):
            judge(0.80, 0.84, patients=6)
    assert gate_rows(services, 2) == []
    assert "gate" not in services.registry.get(task.name, 2).tags
    settings = replace(services.settings, gate=replace(services.settings.gate, min_patients=50))
    object.__setattr__(services, "settings", settings)  # so that the other attempt comes to another verdict
    cache = CaseCache(services, task)
    ids = accepted_ids(services, task, PromotionCases)
    cases = collect(services, cache, PromotionCases, ids, lambda share, message: None)
    exam = Exam(2, {}, None, CalibrationCases(cache, ()), cases)
    verdict = decide(services, task, exam, lambda share, message: None)
    assert not verdict.promote
    assert decide(services, task, exam, lambda share, message: None) == verdict
    assert gate_rows(services, 2) == [verdict]


@pytest.mark.parametrize(("dice", "promoted"), [(0.80, False), (0.87, True)])
def test_in_the_place_of_a_damaged_champion_the_one_before_it_is_compared_with_and_serves_unless_it_is_beaten(
    services: Services, judge, monkeypatch: pytest.MonkeyPatch, dice: float, promoted: bool
) -> None:
    judge(0.82, 0.85, patients=6)

    def load(services: Services, task: object, model: object) -> int:
        if model.version == 2:
            raise NotFound("its weights are damaged")
        return model.version

    monkeypatch.setattr(judging, "load_version", load)
    verdict = judge(dice, patients=0)
    assert (verdict.promote, verdict.champion) == (promoted, 1)
    assert verdict.reason.startswith("version 2 cannot serve (its weights are damaged), compared with version 1 before")
    assert services.registry.champion(services.task().name).version == (3 if promoted else 1)
    rows = [(row.version, row.verdict) for row in services.ledger.models.list(services.task().name)][:2]
    assert rows == ([(3, "promoted"), (2, "promoted")] if promoted else [(3, "kept"), (1, "rollback")])


def test_where_no_version_that_served_can_be_read_the_challenger_serves(services: Services, judge) -> None:
    task = services.task().name
    judge(0.82, 0.85, patients=6)
    for version in (1, 2):
        shutil.rmtree(services.registry.path(task, version))
    verdict = judge(0.10, patients=0)
    assert (verdict.promote, verdict.champion) == (True, 2)
    assert "the champion cannot serve any more: version 2" in verdict.reason
    assert services.registry.champion(task).version == 3


def test_while_the_folder_of_all_weights_is_away_nobody_is_judged(services: Services, judge) -> None:
    task = services.task()
    judge(0.82, 0.85, patients=6)
    folder = services.registry.path(task.name, 1).parent
    away = folder.rename(folder.with_name(f"{folder.name}-away"))
    cache = CaseCache(services, task)
    exam = Exam(3, {}, None, CalibrationCases(cache, ()), PromotionCases(cache, ()))
    with pytest.raises(WeightsUnavailable, match=r"is missing: mount it; if they are gone for good, make an empty"):
        decide(services, task, exam, lambda share, message: None)
    with pytest.raises(WeightsUnavailable):
        services.registry.register(task.name, away, {})
    away.rename(folder)
    assert services.registry.champion(task.name).version == 2


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
