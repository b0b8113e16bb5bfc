"""The walk of a study on a real Orthanc: arrival, draft, correction, acceptance, and everything that can be wrong."""

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import ANY

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import SurfaceSegmentationStorage

from lib.cli.orthanc_process import OrthancProcess, free_port, start_orthanc
from lib.core.errors import ArchiveUnavailable, Conflict, GeometryMismatch, InvalidInput, NoChampion
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.dicom.files import decode, encode
from lib.dicom.seg import SegOrigin, read_seg, seg_summary, write_seg
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import new_uid
from lib.taskfile import Task
from lib.workflows.arrivals import take_in
from lib.workflows.ingest import ingest_once, reconcile
from lib.workflows.intake import check_series, saved_at
from lib.workflows.models import ChampionCache
from lib.workflows.presegment import deliver_outbox, enqueue_drafts, load_series, presegment
from lib.workflows.query import hold, next_case, refresh_queues, release
from lib.workflows.review import accept, annotation_mask, reject, submit_mask
from lib.workflows.services import Services
from loop import GRID, body, install, liver_of, register_random_model, settle, upload
from ohif import ohif_export

pytestmark = pytest.mark.orthanc
NO_UID = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


@pytest.fixture
def services(own_orthanc: OrthancProcess, tmp_path) -> Services:
    return install(own_orthanc, tmp_path / "var")


@pytest.fixture
def task(services: Services) -> Task:
    return services.task("phantom_ct")


@pytest.fixture
def drafted(services: Services, task: Task, tmp_path) -> SourceSeries:
    """A series with a draft in the archive."""
    source = upload(services, body(), "P1")
    register_random_model(services, task, tmp_path / "model")
    settle(services)
    assert services.ledger.annotations.latest_draft(source.series_uid, task.name) is not None
    return source


def annotations(services: Services, **where):
    return services.ledger.annotations.list(**where)


def test_a_series_arrives_once_and_is_ready(services, task):
    source = upload(services, body(), "P1")
    assert ingest_once(services).series == 1
    assert not ingest_once(services).any
    settle(services)
    row = services.ledger.series.get(source.series_uid)
    assert (row.status, row.modality, row.instances) == ("ready", "CT", 6)
    assert row.patient != "P1"
    np.testing.assert_allclose(row.geometry["affine"], GRID.affine, atol=1e-6)


def test_later_arrivals_come_through_the_change_feed(services):
    ingest_once(services)
    source = upload(services, body(), "P1")
    found = 0
    for _ in range(100):
        found += ingest_once(services).series
        if found:
            break
        time.sleep(0.1)
    assert found == 1
    assert services.ledger.series.get(source.series_uid).status == "new"


def test_a_new_database_of_the_archive_is_followed_from_its_start(services, own_orthanc, tmp_path):
    upload(services, body(), "P1")
    ingest_once(services)
    services.ledger.set_cursor("changes", 10**6, services.archive.check().database_id)
    other = upload(services, body(1), "P2")
    assert ingest_once(services).series == 1
    assert services.ledger.series.get(other.series_uid).status == "new"
    assert services.ledger.cursor("changes").value < 10**6


def test_both_series_of_a_patient_share_pseudonym_and_split(services):
    uids = [upload(services, body(seed), "Twin").series_uid for seed in (0, 1)]
    other = upload(services, body(2), "Other").series_uid
    settle(services)
    first, second, third = (services.ledger.series.get(uid) for uid in (*uids, other))
    assert (first.patient, first.split) == (second.patient, second.split)
    assert third.patient != first.patient


def test_a_series_with_a_gap_is_refused_with_the_reason_and_never_offered(services, task):
    source = upload(services, body(), "P1")
    good = upload(services, body(1), "P2")
    missing = source.headers[2].SOPInstanceUID
    found = services.archive._lookup(missing, "Instance")
    services.archive._rest("DELETE", f"/instances/{found[0]}")
    settle(services)
    row = services.ledger.series.get(source.series_uid)
    assert row.status == "refused"
    assert "gap" in row.reason
    assert services.ledger.series.get(good.series_uid).status == "ready"
    refresh_queues(services, task)
    assert next_case(services, task, "random", "anna").series_uid == good.series_uid
    assert next_case(services, task, "random", "bert") is None


def test_a_series_that_no_task_takes_is_listed_with_the_reason(services):
    source = upload(services, Volume(body().array, GRID, "MR"), "P1")
    settle(services)
    row = services.ledger.series.get(source.series_uid)
    assert (row.status, "takes CT, the series is MR" in row.reason) == ("refused", True)


def test_a_series_that_no_task_took_is_checked_again_when_a_task_takes_it(services, own_orthanc, tmp_path):
    source = upload(services, Volume(body().array, GRID, "MR"), "P1")
    settle(services)
    served = install(own_orthanc, tmp_path / "var", tasks="hippocampus_mr")
    settle(served)
    assert served.ledger.series.get(source.series_uid).status == "ready"


def test_a_series_that_leaves_the_archive_is_gone_and_comes_back(services, task):
    source = upload(services, body(), "P1")
    settle(services)
    services.archive.store([ohif_export(liver_of(task, source.geometry), source)])
    settle(services)
    (label,) = services.ledger.annotations.accepted(task.name)
    images, segs = (services.archive.fetch(uid) for uid in (source.series_uid, label.seg_series_uid))
    for uid in (source.series_uid, label.seg_series_uid):
        services.archive.delete_series(uid)
    settle(services)
    assert services.ledger.series.get(source.series_uid).status == "gone"
    row = services.ledger.annotations.get(label.id)
    assert (row.status, row.reason, row.stored_at) == ("rejected", "its SEG left the archive", None)
    services.archive.store(images)
    services.archive.store(segs)
    settle(services)
    assert services.ledger.series.get(source.series_uid).status == "ready"
    assert services.ledger.annotations.accepted(task.name) == [replace(label, stored_at=ANY)]
    assert len(annotations(services)) == 1


def test_a_draft_whose_seg_leaves_the_archive_is_drawn_again(services, task, drafted):
    draft = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    services.archive.delete_series(draft.seg_series_uid)
    settle(services)
    assert services.ledger.annotations.get(draft.id).status == "superseded"
    assert enqueue_drafts(services, task) == 1
    settle(services)
    again = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    assert services.archive.has_instance(again.sop_instance_uid)


def test_a_series_that_is_registered_while_the_archive_is_asked_stays(services, task, monkeypatch):
    real, late = type(services.archive).series, []

    def series(self):
        found = real(self)
        if not late:  # another worker registers and checks a series, and somebody takes it
            late.append(upload(services, body(), "P1").series_uid)
            take_in(services, late[0])
            assert check_series(services, late[0]) == "ready"
            hold(services, task, late[0], "anna")
        return found

    monkeypatch.setattr(type(services.archive), "series", series)
    assert reconcile(services).gone == 0
    assert services.ledger.series.get(late[0]).status == "ready"
    assert services.ledger.queue.holder(late[0], task.name).annotator == "anna"


def _registered_again(services: Services, source: SourceSeries, patient: str) -> None:
    """The same series for another patient, as a correction of the patient's data leaves it."""
    corrected = services.archive.fetch(source.series_uid)
    services.archive.delete_series(source.series_uid)
    for dataset in corrected:
        dataset.PatientID = patient
    services.archive.store(corrected)


def test_a_changed_patient_moves_the_series_and_stops_nobody_else(services, task):
    source = upload(services, body(), "P1")
    settle(services)
    ingest_once(services)
    label = submit_mask(services, task, source, liver_of(task, source.geometry), "anna")
    settle(services)
    before = services.ledger.series.get(source.series_uid)
    _registered_again(services, source, "P1-corrected")
    other = upload(services, body(1), "P2")
    settle(services)
    moved = services.ledger.series.get(source.series_uid)
    assert (moved.status, moved.patient != before.patient) == ("ready", True)
    assert services.ledger.series.get(other.series_uid).status == "ready"
    assert services.ledger.annotations.get(label).status == "accepted"
    assert "series.moved" in {row.action for row in services.ledger.audit.list(subject=source.series_uid)}


def test_a_series_that_the_archive_has_for_two_patients_does_not_go_to_and_fro(services):
    source = upload(services, body(), "P1")
    settle(services)
    copies = services.archive.fetch(source.series_uid)
    for dataset in copies:
        dataset.PatientID = "P1-corrected"
    services.archive.store(copies)
    other = upload(services, body(1), "P2")
    for _ in range(3):
        settle(services)
        ingest_once(services)
    moves = [row for row in services.ledger.audit.list(subject=source.series_uid) if row.action == "series.moved"]
    assert len(moves) <= 1
    assert services.ledger.series.get(other.series_uid).status == "ready"


def test_a_lost_pseudonym_key_makes_known_patients_new_ones_and_stops_nothing(services, own_orthanc, tmp_path):
    source = upload(services, body(), "P1")
    settle(services)
    before = services.ledger.series.get(source.series_uid)
    (tmp_path / "var" / "pseudonym.key").unlink()
    restored = install(own_orthanc, tmp_path / "var")
    other = upload(restored, body(1), "P2")
    settle(restored)
    after = restored.ledger.series.get(source.series_uid)
    assert (after.status, after.patient != before.patient) == ("ready", True)
    assert restored.ledger.series.get(other.series_uid).status == "ready"


def test_what_cannot_be_taken_in_stops_neither_the_cursor_nor_the_comparison(services, monkeypatch):
    bad, good = (upload(services, body(seed), f"P{seed}").series_uid for seed in range(2))
    real = type(services.ledger.series).add

    def add(self, new):
        if new.series_uid == bad:
            raise Conflict("the ledger's rules forbid this change")
        return real(self, new)

    with monkeypatch.context() as patched:
        patched.setattr(type(services.ledger.series), "add", add)
        assert ingest_once(services).series == 1
        assert reconcile(services).series == 0
    assert services.ledger.cursor("changes").value == services.archive.changes(0, limit=1000).last
    assert [row.series_uid for row in services.ledger.series.list()] == [good]
    (note,) = services.ledger.audit.list(subject=bad)
    assert note.details == {"error": "the ledger's rules forbid this change"}
    settle(services)
    assert services.ledger.series.get(bad).status == "ready"


def _in_two_parts(services: Services) -> tuple[str, list, list]:
    """A series that is not in the archive, its first four slices, and the other two."""
    source = upload(services, body(), "P1")
    slices = sorted(services.archive.fetch(source.series_uid), key=lambda header: float(header.ImagePositionPatient[2]))
    services.archive.delete_series(source.series_uid)
    return source.series_uid, slices[:4], slices[4:]


def test_a_series_that_grows_while_it_is_checked_is_checked_again(services, monkeypatch):
    uid, first, rest = _in_two_parts(services)
    services.archive.store(first)
    reconcile(services)
    real, calls = type(services.archive).fetch, []

    def fetch(self, series_uid):
        found = real(self, series_uid)
        if not calls:
            calls.append(series_uid)
            services.archive.store(rest)
            assert reconcile(services).series == 1
        return found

    monkeypatch.setattr(type(services.archive), "fetch", fetch)
    assert check_series(services, uid) == "changed meanwhile"
    assert services.ledger.series.get(uid).status == "new"
    settle(services)
    row = services.ledger.series.get(uid)
    assert (row.status, row.instances, row.geometry["shape"]) == ("ready", 6, [6, 32, 48])


def test_a_series_that_has_grown_before_the_change_feed_says_so_gets_no_wrong_verdict(services):
    uid, first, rest = _in_two_parts(services)
    services.archive.store(first)
    reconcile(services)
    services.archive.store(rest)
    assert check_series(services, uid) == "changed meanwhile"
    settle(services)
    row = services.ledger.series.get(uid)
    assert (row.status, row.instances, row.geometry["shape"]) == ("ready", 6, [6, 32, 48])


def test_labels_and_drafts_of_a_series_that_has_grown_since_do_not_count(services, task, tmp_path):
    register_random_model(services, task, tmp_path / "model")
    uid, first, rest = _in_two_parts(services)
    services.archive.store(first)
    settle(services)
    draft = services.ledger.annotations.latest_draft(uid, task.name)
    label = submit_mask(services, task, (short := load_series(services, uid)), liver_of(task, short.geometry), "anna")
    settle(services)
    services.archive.store(rest)
    settle(services)
    assert services.ledger.series.get(uid).status == "ready"
    row = services.ledger.annotations.get(label)
    assert (row.status, row.reason) == ("superseded", "it was made when the series had 4 instances, now it has 6")
    assert services.ledger.annotations.accepted(task.name) == []
    redrafted = services.ledger.annotations.latest_draft(uid, task.name)
    assert redrafted.id != draft.id
    mask = annotation_mask(services, redrafted.id)
    assert mask.geometry.shape == (6, 32, 48)


def test_drafts_need_a_model_and_the_message_says_how_to_train_one(services, task):
    source = upload(services, body(), "P1")
    settle(services)
    with pytest.raises(NoChampion, match="transunet-label retrain --task phantom_ct"):
        presegment(services, ChampionCache(services), task, source.series_uid)
    assert annotations(services) == []


def test_a_draft_lies_in_the_archive_with_the_names_of_the_task_and_is_no_label(services, task, drafted):
    draft = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    (dataset,) = services.archive.fetch(draft.seg_series_uid)
    summary = seg_summary(dataset)
    assert summary.sop_instance_uid == draft.sop_instance_uid
    assert summary.is_automatic
    assert set(summary.segment_names) == set(task.schema.names)
    mask = read_seg(dataset, drafted, task.schema)
    assert mask.voxels() == draft.voxels
    assert mask.geometry.is_close(drafted.geometry)
    assert services.ledger.annotations.accepted(task.name) == []
    assert set(services.ledger.annotations.scores(draft.id)) <= set(task.schema.names)
    settle(services)
    assert len(annotations(services)) == 1
    assert enqueue_drafts(services, task) == 0


@pytest.mark.parametrize("rle", [False, True], ids=["uncompressed", "rle"])
def test_a_correction_stored_by_the_viewer_knows_its_draft_and_the_changed_voxels(services, task, drafted, rle):
    draft = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    before = annotation_mask(services, draft.id, drafted)
    edited = before.array.copy()
    edited[2, 5:9, 7:12] = np.where(edited[2, 5:9, 7:12] == 2, 3, 2)
    corrected = Mask(edited, drafted.geometry, task.schema)
    lease = hold(services, task, drafted.series_uid, "Dr. Anna")
    services.archive.store([ohif_export(corrected, drafted, rle=rle)])
    settle(services)
    (label,) = services.ledger.annotations.accepted(task.name)
    assert (label.origin, label.author, label.parent_id) == ("human", "Dr. Anna", draft.id)
    assert label.changed_voxels == 20
    assert label.voxels == corrected.voxels()
    assert services.ledger.annotations.get(draft.id).status == "superseded"
    assert services.ledger.queue.holder(drafted.series_uid, task.name) is None, lease
    np.testing.assert_array_equal(annotation_mask(services, label.id).array, edited)
    refresh_queues(services, task)
    assert next_case(services, task, "entropy", "bert") is None


def test_a_label_without_a_lease_has_an_unknown_author(services, task, drafted):
    services.archive.store([ohif_export(liver_of(task, drafted.geometry), drafted)])
    settle(services)
    assert services.ledger.annotations.accepted(task.name)[0].author == "unknown (viewer)"


def test_a_newer_human_seg_supersedes_the_older_one(services, task, drafted):
    draft = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    before = annotation_mask(services, draft.id, drafted)
    hold(services, task, drafted.series_uid, "Dr. Anna")
    for columns in (slice(10, 20), slice(11, 20)):
        services.archive.store([ohif_export(liver_of(task, drafted.geometry, columns), drafted)])
        settle(services)
    old, new = sorted(annotations(services, status="accepted") + annotations(services, status="superseded"),
                      key=lambda row: row.id)[1:]  # fmt: skip
    assert (old.status, new.status) == ("superseded", "accepted")
    assert new.voxels["liver"] == 3 * 8 * 9
    assert [row.id for row in services.ledger.annotations.accepted(task.name)] == [new.id]
    assert [(row.author, row.parent_id) for row in (old, new)] == [("Dr. Anna", draft.id)] * 2
    assert new.changed_voxels == before.changed_voxels(liver_of(task, drafted.geometry, slice(11, 20)))
    assert new.changed_voxels != old.changed_voxels


def test_a_seg_that_is_read_late_does_not_supersede_what_was_saved_after_it(services, task, drafted):
    late, last = (decode(ohif_export(liver_of(task, drafted.geometry), drafted)) for _ in range(2))
    late.ContentTime, late.ContentDate = "235959", "20260101"
    services.archive.store([encode(last)])
    settle(services)
    services.archive.store([encode(late)])
    settle(services)
    (label,) = services.ledger.annotations.accepted(task.name)
    assert label.sop_instance_uid == last.SOPInstanceUID
    assert services.ledger.annotations.find(late.SOPInstanceUID).status == "superseded"
    upload = submit_mask(services, task, drafted, liver_of(task, drafted.geometry), "ben")
    assert [row.id for row in services.ledger.annotations.accepted(task.name)] == [upload]


def _saved(date: str, time_of_day: str, offset: str = "") -> Dataset:
    dataset = Dataset()
    dataset.ContentDate, dataset.ContentTime, dataset.TimezoneOffsetFromUTC = date, time_of_day, offset
    return dataset


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (_saved("20260301", "080910.25", "+0130"), datetime(2026, 3, 1, 6, 39, 10, 250_000, UTC)),
        (_saved("20260301", "080910", "-0500"), datetime(2026, 3, 1, 13, 9, 10, 999_999, UTC)),
        (_saved("20260301", ""), None),
        (_saved("", "080910"), None),
        (Dataset(), None),
    ],
)
def test_when_a_seg_was_saved_stands_in_its_content_date_and_time(dataset, expected):
    assert saved_at(dataset) == expected


def test_without_an_offset_the_content_time_is_local_time():
    local = datetime(2026, 3, 1, 8, 9, 10, 500_000).astimezone()
    assert saved_at(_saved("20260301", "080910.5")) == local


def test_with_review_required_a_label_waits_and_the_reviewer_decides(own_orthanc, tmp_path):
    services = install(own_orthanc, tmp_path / "var", review__mode="required")
    task = services.task()
    source = upload(services, body(), "P1")
    settle(services)
    first = submit_mask(services, task, source, liver_of(task, source.geometry), "anna")
    assert services.ledger.annotations.get(first).status == "submitted"
    assert services.ledger.annotations.accepted(task.name) == []
    reject(services, first, "boss", "spleen missing")
    second = submit_mask(services, task, source, liver_of(task, source.geometry), "anna")
    accept(services, second, "boss")
    assert [row.id for row in services.ledger.annotations.accepted(task.name)] == [second]
    row = services.ledger.annotations.get(first)
    assert (row.status, row.reason, row.reviewer) == ("rejected", "spleen missing", "boss")
    with pytest.raises(Conflict):
        accept(services, first, "boss")


def test_an_uploaded_label_reaches_the_archive_once(services, task):
    source = upload(services, body(), "P1")
    settle(services)
    label = submit_mask(services, task, source, liver_of(task, source.geometry), "anna")
    row = services.ledger.annotations.get(label)
    assert not services.archive.has_instance(row.sop_instance_uid)
    assert deliver_outbox(services) == 1
    assert services.archive.has_instance(row.sop_instance_uid)
    settle(services)
    assert [r.id for r in annotations(services)] == [label]
    np.testing.assert_array_equal(annotation_mask(services, label).array, liver_of(task, source.geometry).array)


def test_an_uploaded_label_on_another_grid_is_refused_with_both_shapes(services, task):
    source = upload(services, body(), "P1")
    other = Geometry.from_spacing((6, 32, 40), (3.0, 2.8, 2.8), origin_mm=(-60.0, -40.0, 100.0))
    with pytest.raises(GeometryMismatch, match=r"6x32x48 .* got 6x32x40"):
        submit_mask(services, task, source, Mask(np.zeros(other.shape, np.uint8), other, task.schema), "anna")


def test_an_empty_label_says_nothing_found_stores_no_seg_and_counts_once_a_reviewer_agrees(own_orthanc, tmp_path):
    services = install(own_orthanc, tmp_path / "var", review__hold_back="true")
    task = services.task()
    source = upload(services, body(), "P1")
    settle(services)
    label = submit_mask(services, task, source, Mask(np.zeros(GRID.shape, np.uint8), source.geometry, task.schema))
    row = services.ledger.annotations.get(label)
    assert (row.nothing_found, row.sop_instance_uid, row.is_held) == (True, None, True)  # six organs are expected
    assert deliver_outbox(services) == 0
    assert annotation_mask(services, label).is_empty
    accept(services, label, "chief")
    assert [row.id for row in services.ledger.annotations.accepted(task.name)] == [label]


def test_a_seg_of_the_viewer_in_the_air_is_held_back_and_the_next_save_mends_it(own_orthanc, tmp_path):
    services = install(own_orthanc, tmp_path / "var", review__hold_back="true")
    task = services.task()
    source = upload(services, body(), "P1")
    settle(services)
    beside = np.zeros(GRID.shape, np.uint8)
    beside[2, 0:3, 0:4] = task.schema.find("liver").id
    for drawn in (Mask(beside, source.geometry, task.schema), liver_of(task, source.geometry)):
        services.archive.store([ohif_export(drawn, source)])
        settle(services)
    mended, slip = annotations(services)
    assert (mended.status, slip.status) == ("accepted", "superseded")
    assert "liver (0% of its voxels)" in slip.held_reason


def test_a_foreign_models_seg_is_a_draft_and_never_a_label(services, task):
    source = upload(services, body(), "P1")
    origin = SegOrigin("AUTOMATIC", "TotalSegmentator", "total", "2", "other model")
    services.archive.store([encode(write_seg(liver_of(task, source.geometry), source, origin, new_uid()))])
    settle(services)
    (row,) = annotations(services)
    assert (row.status, row.origin, row.model_version) == ("draft", "foreign_model", None)
    assert services.ledger.annotations.accepted(task.name) == []


def _of_another_frame(dataset):
    dataset.FrameOfReferenceUID = new_uid()


def _of_an_unknown_series(dataset):
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = new_uid()


def _with_an_unknown_name(dataset):
    next(item for item in dataset.SegmentSequence if item.SegmentLabel == "liver").SegmentLabel = "tumour"


def _with_unknown_names_alone(dataset):
    for number, item in enumerate(dataset.SegmentSequence):
        item.SegmentLabel = f"Segment {number}"


def _of_another_kind(dataset):
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SurfaceSegmentationStorage


def _of_a_path(dataset):
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "../../../evil"


def _of_another_size(dataset):
    dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_of_another_frame, "frame of reference"),
        (_of_an_unknown_series, "does not hold"),
        (_with_an_unknown_name, "named as one of .*'tumour' .*no served task knows tumour"),
        (_with_unknown_names_alone, "no served task takes it: .* named like the labels .*Segment 1"),
        (_of_another_kind, "a DICOM SEG object is needed"),
        pytest.param(_of_a_path, "1 to 64 digits and dots, got '../../../evil'", marks=NO_UID),
        (_of_another_size, "48"),
    ],
)
def test_a_seg_that_cannot_be_used_is_kept_and_recorded_with_the_reason(services, task, spoil, reason):
    source = upload(services, body(), "P1")
    dataset = decode(ohif_export(liver_of(task, source.geometry), source))
    spoil(dataset)
    services.archive.store([encode(dataset)])
    settle(services)
    (row,) = annotations(services)
    assert row.status == "rejected"
    assert re.search(reason, row.reason), row.reason
    assert services.archive.has_instance(row.sop_instance_uid)
    settle(services)
    assert len(annotations(services)) == 1


def test_an_unknown_name_without_voxels_does_not_matter(services, task):
    source = upload(services, body(), "P1")
    settle(services)
    names = {label.id: label.name for label in task.schema} | {200: "Segment 1"}
    services.archive.store([ohif_export(liver_of(task, source.geometry), source, names=names)])
    settle(services)
    assert [row.status for row in annotations(services)] == ["accepted"]


@NO_UID
def test_a_seg_whose_uid_is_a_path_is_rejected_and_the_next_one_of_its_series_is_read(services, task, own_orthanc):
    source = upload(services, body(), "P1")
    settle(services)
    first, second = (decode(ohif_export(liver_of(task, source.geometry), source)) for _ in range(2))
    first.SOPInstanceUID = first.file_meta.MediaStorageSOPInstanceUID = "../../../../evil"
    second.SeriesInstanceUID = first.SeriesInstanceUID
    for dataset in (first, second):
        services.archive._rest("POST", "/instances", data=encode(dataset))
    settle(services)
    rows = {row.sop_instance_uid: row for row in annotations(services)}
    assert {uid: row.status for uid, row in rows.items()} == {
        "../../../../evil": "rejected",
        second.SOPInstanceUID: "accepted",
    }
    assert "digits and dots" in rows["../../../../evil"].reason


@NO_UID
def test_a_series_whose_uid_is_a_path_is_not_taken_in_and_noted(services):
    good = upload(services, body(), "P1")
    dataset = decode(encode(services.archive.fetch(good.series_uid)[0]))
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "../evil", new_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    services.archive._rest("POST", "/instances", data=encode(dataset))
    for _ in range(2):
        settle(services)
    assert [row.series_uid for row in services.ledger.series.list()] == [good.series_uid]
    (note,) = services.ledger.audit.list(subject="../evil")
    assert (note.action, "digits and dots" in note.details["error"]) == ("ingest.failed", True)


TASK_OF_ORGANS = """
name: {name}
description: Organs
modalities: [{modality}]
labels:
  - {{name: liver, id: 1, color: [200, 60, 60], code: {{value: "1", meaning: Liver}}}}
  - {{name: spleen, id: 2, color: [60, 60, 200], code: {{value: "2", meaning: Spleen}}}}
{more}
network: {{size: tiny, context_slices: 0}}
"""
KIDNEY = '  - {name: kidney, id: 3, color: [60, 200, 60], code: {value: "3", meaning: Kidney}}'


def _serve(own_orthanc, tmp_path, *tasks: tuple[str, str, str]) -> Services:
    """An installation with tasks of (name, modality, more labels)."""
    for name, modality, more in tasks:
        (tmp_path / f"{name}.yaml").write_text(TASK_OF_ORGANS.format(name=name, modality=modality, more=more))
    paths = ",".join(str(tmp_path / f"{name}.yaml") for name, _, _ in tasks)
    return install(own_orthanc, tmp_path / "var", tasks=paths)


def test_a_seg_belongs_to_the_task_of_its_series_modality(own_orthanc, tmp_path):
    services = _serve(own_orthanc, tmp_path, ("organs_ct", "CT", ""), ("organs_mr", "MR", ""))
    source = upload(services, Volume(body().array, GRID, "MR"), "P1")
    settle(services)
    services.archive.store([ohif_export(liver_of(services.task("organs_mr"), source.geometry), source)])
    settle(services)
    assert [(row.task, row.status) for row in annotations(services)] == [("organs_mr", "accepted")]


def test_a_seg_belongs_to_the_task_that_knows_most_of_its_names(own_orthanc, tmp_path):
    services = _serve(own_orthanc, tmp_path, ("organs_few", "CT", ""), ("organs_more", "CT", KIDNEY))
    source = upload(services, body(), "P1")
    settle(services)
    kidneys = services.task("organs_more")
    mask = liver_of(kidneys, source.geometry).array.copy()
    for name, expected in (("liver", "organs_few"), ("kidney", "organs_more")):
        mask[1, 20:24, 20:24] = kidneys.schema.find(name).id
        names = {kidneys.schema.find(n).id: n for n in ("liver", "spleen", name)}
        services.archive.store([ohif_export(Mask(mask, source.geometry, kidneys.schema), source, names=names)])
        settle(services)
        assert annotations(services, status="accepted", limit=1)[0].task == expected


def test_a_seg_that_no_task_knew_is_read_again_when_one_is_served(own_orthanc, tmp_path):
    services = _serve(own_orthanc, tmp_path, ("organs", "CT", ""))
    source = upload(services, body(), "P1")
    settle(services)
    later = _serve(own_orthanc, tmp_path, ("organs", "CT", KIDNEY))
    mask = liver_of(later.task(), source.geometry).array.copy()
    mask[1, 20:24, 20:24] = 3
    services.archive.store([ohif_export(Mask(mask, source.geometry, later.task().schema), source)])
    settle(services)
    (row,) = annotations(services)
    assert (row.status, "no served task knows kidney" in row.reason) == ("rejected", True)
    settle(services)
    assert annotations(services) == [row]
    settle(later)
    assert [row.status for row in annotations(later)] == ["accepted"]


def test_a_seg_that_arrives_before_its_series_is_read_when_the_series_comes(services, task):
    source = upload(services, body(), "P1")
    instances = services.archive.fetch(source.series_uid)
    services.archive.delete_series(source.series_uid)
    services.archive.store([ohif_export(liver_of(task, source.geometry), source)])
    settle(services)
    assert [row.status for row in annotations(services)] == ["rejected"]
    services.archive.store(instances)
    settle(services)
    assert [row.status for row in annotations(services)] == ["accepted"]


def test_two_annotators_never_get_one_case_and_a_skipped_one_goes_to_others(services, task):
    uids = {upload(services, body(seed), f"P{seed}").series_uid for seed in range(2)}
    settle(services)
    refresh_queues(services, task)
    anna, bert = (next_case(services, task, "random", who) for who in ("anna", "bert"))
    assert {anna.series_uid, bert.series_uid} == uids
    assert next_case(services, task, "random", "carl") is None
    assert next_case(services, task, "random", "anna").series_uid == anna.series_uid
    release(services, task, anna.series_uid, "anna")
    assert next_case(services, task, "random", "anna") is None
    assert next_case(services, task, "random", "carl").series_uid == anna.series_uid
    with pytest.raises(Conflict):
        hold(services, task, bert.series_uid, "anna")


def test_an_unknown_strategy_is_refused_with_the_list(services, task):
    with pytest.raises(InvalidInput, match=r"one of default, random, .*, got 'best'"):
        next_case(services, task, "best", "anna")


def test_a_new_champion_redrafts_and_the_old_draft_leaves_the_archive(services, task, drafted, tmp_path):
    old = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    version = register_random_model(services, task, tmp_path / "second", seed=1)
    assert enqueue_drafts(services, task) == 1
    settle(services)
    new = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    assert (new.model_version, services.ledger.annotations.get(old.id).status) == (version, "superseded")
    assert services.archive.has_instance(new.sop_instance_uid)
    assert not services.archive.has_instance(old.sop_instance_uid)


def test_a_queued_redraft_waits_until_the_annotator_is_done_with_the_draft_he_sees(services, task, drafted, tmp_path):
    seen = services.ledger.annotations.latest_draft(drafted.series_uid, task.name)
    register_random_model(services, task, tmp_path / "second", seed=1)
    assert enqueue_drafts(services, task) == 1
    hold(services, task, drafted.series_uid, "anna")
    settle(services)
    assert services.ledger.annotations.latest_draft(drafted.series_uid, task.name) == seen
    assert services.archive.has_instance(seen.sop_instance_uid)
    services.archive.store([ohif_export(liver_of(task, drafted.geometry), drafted)])
    settle(services)
    (label,) = services.ledger.annotations.accepted(task.name)
    assert label.parent_id == seen.id
    assert [row.status for row in annotations(services)] == ["accepted", "superseded"]


def test_work_goes_on_where_it_stopped_when_the_archive_comes_back(tmp_path):
    port, folder = free_port(), tmp_path / "orthanc"
    with start_orthanc(folder, port, "tester", "secret") as running:
        services = install(running, tmp_path / "var")
        task = services.task()
        source = upload(services, body(), "P1")
        settle(services)
        label = submit_mask(services, task, source, liver_of(task, source.geometry), "anna")
    with pytest.raises(ArchiveUnavailable, match="does not answer"):
        ingest_once(services)
    with pytest.raises(ArchiveUnavailable):
        deliver_outbox(services)
    with start_orthanc(folder, port, "tester", "secret"):
        for _ in range(100):
            if deliver_outbox(services):
                break
            time.sleep(0.1)
        row = services.ledger.annotations.get(label)
        assert services.archive.has_instance(row.sop_instance_uid)
        assert assemble(services.archive.fetch(source.series_uid)).geometry.is_close(source.geometry)
