import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from lib.core.values import Mask
from lib.dicom.seg import SegOrigin, write_seg
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import new_uid
from lib.ledger.corrections import CorrectionRow
from lib.ledger.rows import NewDraft
from lib.settings import load_settings
from lib.workflows.cusum import SMALLEST_SPREAD, falling
from lib.workflows.fieldmetrics import field_of, field_report
from lib.workflows.review import submit_mask
from lib.workflows.services import Services

START = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = replace(load_settings(environ={}).field, reference_cases=3, slack=0.5, threshold=2.0)


def test_the_chart_sums_what_is_below_the_reference_and_forgets_what_is_above() -> None:
    chart = falling([0.8, 0.9, 1.0, 0.8, 0.6, 1.0, 1.2], first=3, slack=0.5, threshold=2.0)
    assert chart is not None
    assert (chart.reference, chart.spread) == (pytest.approx(0.9), pytest.approx(0.1))
    assert chart.sums == pytest.approx((0.5, 3.0, 1.5, 0.0))  # +1-0.5, +3-0.5, -1-0.5, below 0
    assert not chart.alarm


def test_an_alarm_is_dated_from_where_the_sum_passed_the_threshold() -> None:
    chart = falling([0.8, 0.9, 1.0, 0.8, 0.6, 0.6], first=3, slack=0.5, threshold=2.0)
    assert chart is not None
    assert (chart.alarm, chart.since) == (True, 4)
    assert chart.sums == pytest.approx((0.5, 3.0, 5.5))


def test_a_short_series_has_no_chart_and_an_even_one_a_smallest_spread() -> None:
    assert falling([0.9, 0.9, 0.9], 3, 0.5, 5) is None
    chart = falling([0.9, 0.9, 0.9, 0.88], 3, 0.5, 5)
    assert chart is not None
    assert chart.spread == SMALLEST_SPREAD
    assert chart.sums == pytest.approx((1.5,))


def test_a_level_that_stays_gives_few_alarms_and_a_fallen_one_is_found_soon() -> None:
    rng = np.random.default_rng(0)
    steady = [falling(rng.normal(0.9, 0.02, 120).tolist(), 60, 0.5, 5.0) for _ in range(200)]
    assert sum(any(total > 5 for total in chart.sums) for chart in steady if chart) < 40
    found = []
    for _ in range(100):
        values = [*rng.normal(0.9, 0.02, 60), *rng.normal(0.86, 0.02, 40)]
        chart = falling(values, 60, 0.5, 5.0)
        assert chart is not None
        found.append(chart.since)
    assert all(since is not None for since in found)
    assert np.median([since for since in found if since is not None]) - 60 < 8


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
