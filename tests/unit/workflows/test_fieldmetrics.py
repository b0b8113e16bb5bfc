import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from lib.core.errors import Conflict
from lib.core.values import Mask
from lib.dicom.seg import SegOrigin, write_seg
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import new_uid
from lib.ledger.corrections import CorrectionRow
from lib.ledger.rows import NewDraft
from lib.settings import load_settings
from lib.workflows.cusum import SMALLEST_SPREAD, Period, falling
from lib.workflows.fieldmetrics import FieldReport, Mark, acknowledge, field_of, field_report, marks
from lib.workflows.review import submit_mask
from lib.workflows.services import Services

START = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = replace(load_settings(environ={}).field, reference_cases=3, slack=0.5, threshold=2.0)


def one(*values: float) -> list[Period]:
    return [Period("one", values)]


def test_the_chart_sums_what_is_below_the_reference_and_forgets_what_is_above() -> None:
    chart = falling(one(0.8, 0.9, 1.0, 0.8, 0.6, 1.0, 1.2), first=3, slack=0.5, threshold=2.0)
    assert chart is not None
    assert (chart.reference, chart.spread) == (pytest.approx(0.9), pytest.approx(0.1))
    assert chart.sums == pytest.approx((0.5, 3.0, 1.5, 0.0))  # +1-0.5, +3-0.5, -1-0.5, below 0
    assert not chart.alarm


def test_an_alarm_is_dated_from_where_the_sum_passed_the_threshold() -> None:
    chart = falling(one(0.8, 0.9, 1.0, 0.8, 0.6, 0.6), first=3, slack=0.5, threshold=2.0)
    assert chart is not None
    assert (chart.alarm, chart.since) == (True, 4)
    assert chart.sums == pytest.approx((0.5, 3.0, 5.5))


def test_a_short_series_has_no_chart_and_an_even_one_a_smallest_spread() -> None:
    assert falling(one(0.9, 0.9), 3, 0.5, 5) is None
    chart = falling(one(0.9, 0.9, 0.9, 0.88), 3, 0.5, 5)
    assert chart is not None
    assert chart.spread == SMALLEST_SPREAD
    assert chart.sums == pytest.approx((1.5,))


def test_a_level_that_stays_gives_few_alarms_and_a_fallen_one_is_found_soon() -> None:
    rng = np.random.default_rng(0)
    steady = [falling(one(*rng.normal(0.9, 0.02, 120)), 60, 0.5, 5.0) for _ in range(200)]
    assert sum(any(total > 5 for total in chart.sums) for chart in steady if chart) < 40
    found = []
    for _ in range(100):
        values = [*rng.normal(0.9, 0.02, 60), *rng.normal(0.86, 0.02, 40)]
        chart = falling(one(*values), 60, 0.5, 5.0)
        assert chart is not None
        found.append(chart.since)
    assert all(since is not None for since in found)
    assert np.median([since for since in found if since is not None]) - 60 < 8


def test_a_new_period_has_a_reference_and_a_sum_of_its_own() -> None:
    first, better = Period("v1", (0.8, 0.9, 1.0, 0.7)), Period("v2", (0.95, 0.9, 0.97, 0.93))
    chart = falling([first, better], first=3, slack=0.5, threshold=2.0)
    assert chart is not None
    assert (chart.period, chart.reference) == (1, pytest.approx(0.94))
    assert chart.sums == (pytest.approx(0.01 / chart.spread - 0.5 if 0.01 / chart.spread > 0.5 else 0.0),)


def test_until_a_version_has_its_own_reference_it_is_held_against_the_one_before() -> None:
    first = Period("v1", (0.8, 0.9, 1.0, 0.8))  # the last one leaves a sum of 0.5
    chart = falling([first, Period("v2", (0.75,))], first=3, slack=0.5, threshold=2.0)
    assert chart is not None
    assert (chart.period, chart.alarm, chart.sums) == (0, False, pytest.approx((0.5, 1.5)))
    fallen = falling([first, Period("v2", (0.75, 0.6))], first=3, slack=0.5, threshold=2.0)
    assert fallen is not None
    assert (fallen.period, fallen.since) == (0, 5)
    own = falling([first, Period("v2", (0.75, 0.85, 0.95, 0.85))], first=3, slack=0.5, threshold=2.0)
    assert own is not None
    assert (own.period, own.reference, own.sums) == (1, pytest.approx(0.85), (0.0,))


@pytest.mark.parametrize("cases", [1, 2, 3, 19])
def test_versions_that_are_replaced_before_they_have_a_reference_add_up_to_one_chart(cases: int) -> None:
    steady = np.random.default_rng(0).normal(0.9, 0.02, 20)
    low = [float(steady.mean() - 2 * steady.std(ddof=1))] * 38  # each adds 1.5 to the sum
    versions = [Period("v", tuple(low[start : start + cases])) for start in range(0, len(low), cases)]
    for number in range(1, len(versions) + 1):
        chart = falling([Period("v0", tuple(steady)), *versions[:number]], 20, 0.5, 5.0)
        assert chart is not None
        assert (chart.period, chart.since) == (0, 23 if number * cases >= 4 else None)


def test_a_standing_alarm_outlives_a_promotion_until_cases_of_the_new_version_speak_for_it() -> None:
    fallen = Period("v1", (0.8, 0.9, 1.0, 0.5, 0.5))  # sums 3.5 and 7
    waiting = falling([fallen, Period("v2", ())], first=3, slack=0.5, threshold=2.0)
    assert waiting is not None
    assert (waiting.alarm, waiting.since, waiting.period) == (True, 3, 0)
    low = falling([fallen, Period("v2", (0.8,))], first=3, slack=0.5, threshold=2.0)
    assert low is not None
    assert (low.since, low.sums[-1]) == (3, pytest.approx(2.5))  # from the threshold on, not from 7
    mended = falling([fallen, Period("v2", (0.9,))], first=3, slack=0.5, threshold=2.0)
    assert mended is not None
    assert (mended.alarm, mended.sums[-1]) == (False, pytest.approx(1.5))


def test_an_alarm_that_ended_before_a_version_got_a_reference_asks_for_no_acknowledgement() -> None:
    served = [Mark(START - timedelta(days=1), 1), Mark(START + timedelta(days=3), 2)]
    values = [0.8, 0.9, 1.0, 0.8, 0.8, 0.5, *(1.1,) * 3]
    rows = [row(day, "ball", dice, model_version=1 if day < 3 else 2) for day, dice in enumerate(values)]
    stays = field_of("t", rows[:6], CONFIG, served)
    assert stays.to_dict()["alarm"]
    assert stays.reference.endswith("no reference of its own before the alarm is acknowledged")
    ended = field_of("t", rows, CONFIG, served)
    assert not ended.to_dict()["alarm"]
    assert ended.reference.endswith("no reference of its own, as there was an alarm when it had 3 cases")


def test_the_field_s_alarm_stands_while_a_promoted_version_has_no_case_and_versions_of_two_cases_raise_it() -> None:
    def of(low: int) -> FieldReport:
        values = [0.8, 0.9, 1.0, *(0.7,) * low]
        versions = [1, 1, 1, *(2 + number // 2 for number in range(low))]
        rows = [row(day, "ball", dice, model_version=versions[day]) for day, dice in enumerate(values)]
        served = [Mark(START - timedelta(days=1), 1)]
        served += [Mark(START + timedelta(days=3 + 2 * number), 2 + number) for number in range(3)]
        return field_of("t", rows, replace(CONFIG, threshold=5.0), served)

    assert not of(2).to_dict()["alarm"]
    assert of(4).short.startswith("ALARM: fallen below 0.900 since 2026-03-07")  # version 4 serves, without a case
    assert of(6).short.startswith("ALARM: fallen below 0.900 since 2026-03-07")


def test_a_fallen_level_does_not_become_the_reference_by_lasting() -> None:
    periods = [Period("v1", (0.8, 0.9, 1.0)), Period("v2", (0.6,) * 9)]
    lasting = falling(periods, first=3, slack=0.5, threshold=2.0)
    assert lasting is not None
    assert (lasting.period, lasting.since) == (0, 3)
    noted = falling([*periods, Period("noted", (0.6,) * 4, inherits=False)], first=3, slack=0.5, threshold=2.0)
    assert noted is not None
    assert (noted.period, noted.reference, noted.alarm) == (2, pytest.approx(0.6), False)
    without = falling([*periods, Period("noted", (0.6,) * 2, inherits=False)], first=3, slack=0.5, threshold=2.0)
    assert without is None


def test_a_better_version_ends_the_alarm_of_the_one_before() -> None:
    periods = [Period("v1", (0.8, 0.9, 1.0, 0.5, 0.5)), Period("v2", (0.9, 0.9))]
    assert falling(periods[:1], 3, 0.5, 2.0).alarm  # type: ignore[union-attr]
    assert not falling(periods, 3, 0.5, 2.0).alarm  # type: ignore[union-attr]


def row(number: int, label: str, dice: float, lane: str = "random", **changed: object) -> CorrectionRow:
    made = CorrectionRow(number, label, dice, lane, "anna", "north", 1, START + timedelta(days=number))
    return replace(made, **changed)  # type: ignore[arg-type]


def test_the_random_lane_stands_apart_and_levels_are_means_by_label_version_annotator_site_and_month() -> None:
    rows = [
        row(1, "ball", 0.8),
        row(1, "cube", 0.4),
        row(2, "ball", 1.0, author="bert", site="", model_version=2),
        row(3, "ball", 0.1, lane="entropy", model_version=None),
        row(40, "ball", 0.6),
    ]
    found = field_of("t", rows, CONFIG)
    assert found.random.level is not None
    assert (found.random.level.cases, found.random.level.mean, found.random.level.lowest) == (
        3,
        pytest.approx(0.7),
        0.4,
    )
    assert {name: level.mean for name, level in found.random.by["label"].items()} == pytest.approx(
        {"ball": 0.8, "cube": 0.4}
    )
    assert {name: level.cases for name, level in found.random.by["annotator"].items()} == {"anna": 2, "bert": 1}
    assert list(found.random.by["site"]) == ["north", "unknown"]
    assert list(found.random.by["month"]) == ["2026-03", "2026-04"]
    assert [dice for _, dice in found.random.curve] == pytest.approx([0.6, 1.0, 0.6])
    assert found.others.level is not None
    assert (found.others.level.mean, list(found.others.by["model version"])) == (0.1, ["foreign model"])
    assert found.short == "Dice 0.700 on 3 cases of the random lane"
    json.dumps(found.to_dict(), default=str)


def test_a_fall_in_the_random_lane_is_told_with_its_day() -> None:
    rows = [row(day, "ball", dice) for day, dice in enumerate([0.8, 0.9, 1.0, 0.5, 0.5])]
    found = field_of("t", rows, CONFIG)
    assert found.short == "ALARM: fallen below 0.900 since 2026-03-04; Dice 0.740 on 5 cases of the random lane"
    assert found.to_dict()["alarm"] is True
    easy = field_of("t", [replace(correction, lane="entropy") for correction in rows], CONFIG)
    assert (easy.chart, easy.short) == (None, "no corrected draft of the random lane yet, 5 cases of others")


def test_the_reference_in_force_is_told_and_starts_anew_with_each_version_that_serves() -> None:
    def of(days: int, since: list[Mark], version_from: int = 3) -> str:
        rows = [row(day, "ball", 0.9, model_version=1 if day < version_from else 2) for day in range(days)]
        return field_of("t", rows, CONFIG, since).reference

    served = [Mark(START - timedelta(days=1), 1), Mark(START + timedelta(days=3), 2)]
    assert of(2, []) == "no reference yet: 2 of 3 cases of all versions"
    assert of(2, served[:1]) == "no reference yet: 2 of 3 cases of version 1, serving since 2026-02-28"
    version_1 = "reference 0.900, the first 3 cases of version 1, serving since 2026-02-28"
    assert of(3, served[:1]) == version_1
    assert of(5, served) == f"{version_1}; version 2, serving since 2026-03-04: 2 of 3 cases for a reference of its own"
    assert of(6, served) == "reference 0.900, the first 3 cases of version 2, serving since 2026-03-04"
    # drafts of version 1 that are corrected after version 2 came tell nothing of version 2
    assert of(9, served, version_from=7) == (
        f"{version_1}; version 2, serving since 2026-03-04: 2 of 3 cases for a reference of its own"
    )


def test_an_acknowledged_alarm_starts_the_reference_anew_even_where_a_promotion_follows_at_once() -> None:
    low = [row(day, "ball", 0.9 if day < 3 else 0.5 + 0.01 * (day % 2)) for day in range(9)]
    start = Mark(START - timedelta(days=1), 1)
    assert field_of("t", low, CONFIG, [start]).short.startswith("ALARM: fallen below 0.900 since 2026-03-04")
    noted = field_of("t", low, CONFIG, [start, Mark(START + timedelta(days=5), None)])
    assert noted.short == "Dice 0.637 on 9 cases of the random lane"
    assert noted.reference == (
        "reference 0.507, the first 3 cases of version 1, after the alarm acknowledged on 2026-03-06"
    )
    last = Mark(START + timedelta(days=30), None), Mark(START + timedelta(days=31), 2)
    empty = field_of("t", low, CONFIG, [start, *last])
    assert (empty.chart, empty.reference) == (
        None,
        "no reference yet: 0 of 3 cases of version 2, serving since 2026-04-01",
    )


def test_an_alarm_is_acknowledged_once_with_name_and_reason_and_not_without_one(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    rows = [row(day, "ball", 0.9 if day < 20 else 0.4, at=START + timedelta(hours=day)) for day in range(40)]
    corrections = SimpleNamespace(list=lambda _: rows)
    monkeypatch.setattr(services.ledger, "corrections", corrections)
    assert field_report(services, task).short.startswith("ALARM")
    assert acknowledge(services, task, "vera", "another scanner").startswith("ALARM: fallen below 0.900")
    [noted] = services.ledger.audit.list(subject=f"field {task.name}")
    assert (noted.actor, noted.details["reason"]) == ("vera", "another scanner")
    after = field_report(services, task)
    assert after.reference.startswith(
        "no reference yet: 0 of 20 cases of all versions, after the alarm acknowledged on"
    )
    with pytest.raises(Conflict, match=r"has no alarm to acknowledge: Dice 0\.650"):
        acknowledge(services, task, "vera", "")


def test_promotions_and_rollbacks_start_the_reference_anew_and_kept_versions_do_not(services: Services) -> None:
    task = services.task().name
    for version, verdict in ((1, "promoted"), (2, "kept"), (3, "promoted"), (1, "rollback")):
        services.ledger.models.finish(services.ledger.models.begin(task, version, verdict, "because"))
    assert [mark.version for mark in marks(services, services.task())] == [1, 3, 1]


def draft(services: Services, source: SourceSeries, mask: Mask, version: int) -> None:
    sop_uid, seg_uid = new_uid(), new_uid()
    origin = SegOrigin("AUTOMATIC", "model", "transunet", str(version), "draft")
    services.archive.store([write_seg(mask, source, origin, sop_uid, seg_uid)])
    services.ledger.annotations.add_draft(
        NewDraft(source.series_uid, services.task().name, "model", version, "model", sop_uid, seg_uid, mask.voxels())
    )


def boxes(services: Services, source: SourceSeries, ball_rows: int, cube: bool) -> Mask:
    array = np.zeros(source.volume.geometry.shape, np.uint8)
    array[1, :ball_rows, :4] = 3
    array[2, :2, :2] = 1 if cube else 0
    return Mask(array, source.volume.geometry, services.task().schema)


def test_a_correction_is_measured_against_its_draft_when_it_is_taken_in(
    services: Services, add_series: Callable[..., str]
) -> None:
    task = services.task()
    uid = add_series("p1")
    source = assemble(services.archive.fetch(uid))
    draft(services, source, boxes(services, source, ball_rows=4, cube=False), version=7)
    services.ledger.queue.rebuild(task.name, "random", [(uid, 0.5, "")])
    assert services.ledger.queue.take(task.name, "random", "anna", lease_s=60) is not None
    submit_mask(services, task, source, boxes(services, source, ball_rows=2, cube=True))
    found = {correction.label: correction for correction in services.ledger.corrections.list(task.name)}
    assert {name: correction.dice for name, correction in found.items()} == {
        "ball": pytest.approx(2 * 8 / (16 + 8)),
        "cube": 0.0,
    }
    ball = found["ball"]
    assert (ball.author, ball.lane, ball.model_version) == ("anna", "random", 7)
    # saved again: the newer annotation alone counts, against the same draft, in the same lane
    submit_mask(services, task, source, boxes(services, source, ball_rows=4, cube=False))
    again = services.ledger.corrections.list(task.name)
    assert [(correction.label, correction.dice, correction.lane) for correction in again] == [("ball", 1.0, "random")]
    assert field_report(services, task).short == "Dice 1.000 on 1 case of the random lane"


def test_a_case_that_nobody_was_handed_counts_to_no_lane_and_a_label_without_a_draft_not_at_all(
    services: Services, add_series: Callable[..., str]
) -> None:
    task = services.task()
    first, second = (assemble(services.archive.fetch(add_series(patient))) for patient in ("p1", "p2"))
    draft(services, first, boxes(services, first, 4, cube=False), version=1)
    submit_mask(services, task, first, boxes(services, first, 4, cube=False), "bert")
    submit_mask(services, task, second, boxes(services, second, 4, cube=False), "bert")
    assert [(found.author, found.lane) for found in services.ledger.corrections.list(task.name)] == [("bert", "")]
