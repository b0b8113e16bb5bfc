from collections import Counter

import numpy as np
import pytest

from lib.core.labels import Code, Label, LabelSchema
from lib.demo.cohort import (
    AUTHOR,
    DRAFT,
    GATE,
    GATE_PATIENTS,
    HELD_OUT,
    LESIONS,
    TRAIN,
    case_files,
    phantom_cohort,
    stable_uid,
)
from lib.dicom.seg import read_seg, seg_summary
from lib.dicom.series import assemble
from lib.settings import load_settings

NAMES = ("spine", "liver", "spleen", "left kidney", "right kidney", "aorta", "lesion")
SCHEMA = LabelSchema(tuple(Label(name, 1 + k, (9, 90, 200), Code("10200004", name)) for k, name in enumerate(NAMES)))


def test_the_cohort_has_29_patients_of_whom_21_are_labelled_4_held_out_and_5_the_gates() -> None:
    cohort = phantom_cohort(SCHEMA)
    assert Counter(case.role for case in cohort) == {TRAIN: 12, HELD_OUT: 4, DRAFT: 8, GATE: 5}
    assert [case.labelled for case in cohort] == [True] * 16 + [False] * 8 + [True] * 5
    splits = ["pool"] * 12 + ["calibration"] * 4 + ["pool"] * 8 + ["promotion"] * 5
    assert [case.split for case in cohort] == splits
    assert len({case.patient_id for case in cohort}) == 29


def test_the_gate_has_as_many_patients_as_it_asks_for_and_each_shows_every_label() -> None:
    cases = [case for case in phantom_cohort(SCHEMA) if case.role == GATE]
    assert len(cases) == GATE_PATIENTS == load_settings(environ={}).gate.min_patients
    masks = [case.load()[1] for case in cases]
    assert min(voxels for mask in masks for voxels in mask.voxels().values()) > 0


def test_each_role_has_some_but_not_all_patients_with_a_lesion() -> None:
    for role in (TRAIN, HELD_OUT, DRAFT):
        numbers = {number for number, case in enumerate(phantom_cohort(SCHEMA)) if case.role == role}
        assert 0 < len(numbers & LESIONS) <= len(numbers) / 2


def test_uids_are_distinct_and_the_same_in_every_run() -> None:
    uids = [uid for case in phantom_cohort(SCHEMA) for uid in (case.series_uid, case.study_uid, case.seg_series_uid)]
    assert len(set(uids)) == 87
    assert phantom_cohort(SCHEMA)[3].series_uid == uids[9]
    assert stable_uid("phantom-1", "series") == "2.25.220440359481470402209700476101336305732"
    assert all(len(uid) <= 64 for uid in uids)


def test_a_labelled_case_becomes_a_series_and_a_manual_segmentation_that_read_back_equal() -> None:
    case = phantom_cohort(SCHEMA)[1]
    volume, mask = case.load()
    files = case_files(case)
    source = assemble(files.images)
    assert np.array_equal(source.volume.array, volume.array)
    assert source.geometry.is_close(volume.geometry)
    assert source.series_uid == case.series_uid
    assert np.array_equal(read_seg(files.segmentation, source, SCHEMA).array, mask.array)
    summary = seg_summary(files.segmentation)
    assert summary.referenced_series_uid == case.series_uid
    assert summary.creator_name.replace("^", " ").strip() == AUTHOR
    assert not summary.is_automatic
    assert set(summary.segment_names) == set(NAMES)
    assert len(files.instances) == 65


def test_a_second_making_gives_the_same_instances() -> None:
    case = phantom_cohort(SCHEMA)[12]
    first, second = case_files(case), case_files(case)
    assert [d.SOPInstanceUID for d in first.instances] == [d.SOPInstanceUID for d in second.instances]
    assert [d.PixelData for d in first.images] == [d.PixelData for d in second.images]


def test_a_case_to_draft_brings_no_label() -> None:
    files = case_files(phantom_cohort(SCHEMA)[23])
    assert files.segmentation is None
    assert len(files.instances) == 64
    assert {str(d.StudyDescription) for d in files.images} == {"Demo: draft"}


@pytest.mark.parametrize("number", [0, 15, 20])
def test_a_case_says_in_its_headers_whose_it_is(number: int) -> None:
    case = phantom_cohort(SCHEMA)[number]
    header = case_files(case).images[0]
    assert header.PatientID == case.patient_id == f"PHANTOM-{number + 1:03d}"
    assert "phantom" in header.SeriesDescription.lower()  # the task takes series of that description alone
    assert header.StudyInstanceUID == case.study_uid
