from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib.cli.demo_bars import STAGES, Stopwatch
from lib.cli.demo_standing import heldout_dice, judge, report
from lib.demo.cohort import DRAFT, GATE, HELD_OUT, TRAIN, CohortCase
from lib.ledger.rows import AnnotationRow, JobRow, SeriesRow
from lib.registry.versions import ModelVersion

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def case(name: str, role: str) -> CohortCase:
    return CohortCase(name, name, name, name, role, "", load=lambda: pytest.fail("nobody loads here"))


COHORT = (case("a", TRAIN), case("b", HELD_OUT), case("c", DRAFT), case("d", DRAFT))


def made(kind: type, **values: Any) -> Any:
    """A row with the given values; the others are empty."""
    empty: dict[str, Any] = {field.name: None for field in fields(kind)}
    return kind(**(empty | values))


def rows(**statuses: str) -> Mapping[str, SeriesRow]:
    found = {c.title: c for c in COHORT}
    uids = {name: found[name].series_uid for name in statuses}
    return {
        uids[name]: made(SeriesRow, series_uid=uids[name], status=status, reason=f"{name} is odd")
        for name, status in statuses.items()
    }


def label(of: CohortCase, status: str = "accepted") -> AnnotationRow:
    return made(
        AnnotationRow,
        series_uid=of.series_uid,
        seg_series_uid=of.seg_series_uid,
        status=status,
        origin="human",
        reason="unknown segment",
        nothing_found=False,
    )


def draft(of: CohortCase, stored_at: datetime | None = NOW, nothing_found: bool = False) -> AnnotationRow:
    return made(
        AnnotationRow,
        series_uid=of.series_uid,
        status="draft",
        origin="model",
        stored_at=stored_at,
        nothing_found=nothing_found,
    )


def test_a_cohort_that_the_ledger_does_not_know_waits_for_all_its_drafts() -> None:
    standing = judge(COHORT, {}, [], [])
    assert (standing.ready, standing.labelled, standing.drafted, standing.waiting) == (0, 0, 0, 2)


def test_a_draft_counts_when_its_seg_is_in_the_archive_or_when_nothing_was_found() -> None:
    everything = rows(a="ready", b="ready", c="ready", d="ready")
    on_its_way = judge(COHORT, everything, [draft(COHORT[2], stored_at=None)], [])
    assert (on_its_way.ready, on_its_way.drafted, on_its_way.waiting) == (4, 0, 2)
    there = judge(COHORT, everything, [draft(COHORT[2]), draft(COHORT[3], None, nothing_found=True)], [])
    assert (there.drafted, there.waiting) == (2, 0)


def test_labels_count_once_accepted_and_a_rejected_one_is_named_with_its_reason() -> None:
    standing = judge(COHORT, rows(a="ready", b="ready"), [label(COHORT[0]), label(COHORT[1], "rejected")], [])
    assert standing.labelled == 1
    assert standing.rejected == {"b": "unknown segment"}


def test_a_first_training_waits_for_the_labels_that_it_looks_at_and_not_for_the_gates() -> None:
    cohort = (*COHORT, case("e", GATE))
    everything = rows(a="ready", b="ready")
    assert judge(cohort, {}, [], []).awaited == 2
    assert judge(cohort, everything, [label(COHORT[0])], []).awaited == 1
    with_the_gates = judge(cohort, everything, [label(COHORT[0]), label(cohort[4])], [])
    assert (with_the_gates.awaited, with_the_gates.unread) == (1, 1)
    without = judge(cohort, everything, [label(COHORT[0]), label(COHORT[1])], [])
    assert (without.awaited, without.unread) == (0, 1)
    assert judge(cohort, everything, [label(COHORT[0]), label(COHORT[1], "rejected")], []).awaited == 0
    assert judge(cohort, rows(a="ready", b="refused"), [label(COHORT[0])], []).awaited == 0


def test_a_series_that_somebody_labelled_meanwhile_needs_no_draft() -> None:
    standing = judge(COHORT, rows(c="ready", d="ready"), [label(COHORT[2]), draft(COHORT[3])], [])
    assert (standing.labelled, standing.drafted, standing.waiting) == (0, 1, 0)


def test_a_refused_series_is_not_waited_for_and_named_with_its_reason() -> None:
    standing = judge(COHORT, rows(c="refused", d="ready"), [draft(COHORT[3])], [])
    assert (standing.ready, standing.drafted, standing.waiting) == (1, 1, 0)
    assert standing.refused == {"c": "c is odd"}


def test_a_failed_draft_is_not_waited_for_and_named_with_its_error() -> None:
    job = made(JobRow, payload={"series_uid": COHORT[2].series_uid}, error="no memory")
    standing = judge(COHORT, rows(c="ready", d="ready"), [draft(COHORT[3])], [job])
    assert (standing.waiting, standing.failed) == (0, {"c": "no memory"})
    mended = judge(COHORT, rows(c="ready", d="ready"), [draft(COHORT[2]), draft(COHORT[3])], [job])
    assert mended.failed == {}


def model(metrics: Mapping[str, float]) -> ModelVersion:
    return made(ModelVersion, task="phantom_ct", version=3, folder=Path(), metrics=metrics)


def test_held_out_dice_is_the_mean_and_every_label_that_has_one() -> None:
    found = heldout_dice(model({"mean_dice": 0.91234, "dice/liver": 0.95, "other": 1.0}), ["liver", "lesion"])
    assert found == {"mean": 0.9123, "liver": 0.95}


def test_the_report_has_the_agreed_keys() -> None:
    standing = judge(COHORT, rows(c="ready"), [label(COHORT[0]), draft(COHORT[2])], [])
    found = report(COHORT, standing, model({"mean_dice": 0.9}), ["liver"], {"training": 61.26})
    assert found == {
        "series": 4,
        "labelled": 1,
        "drafted": 1,
        "heldout_dice": {"mean": 0.9},
        "seconds": {"training": 61.3},
        "model_version": 3,
    }


def test_the_stopwatch_measures_each_stage_from_the_end_of_its_forerunner(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr("lib.cli.demo_bars.time.monotonic", lambda: now.value)
    clock = Stopwatch(100.0)
    for stage, at in (("archive", 101.0), ("labels", 130.0), ("training", 190.0), ("training", 500.0)):
        now.value = at
        clock.passed(stage)
    assert clock.seconds() == {"archive": 1.0, "labels": 29.0, "training": 60.0}
    assert clock.has("labels")
    assert not clock.has("drafts")
    assert set(STAGES.values()) - {""} <= set(STAGES)
