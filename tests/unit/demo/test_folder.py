from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.core.errors import GeometryMismatch, InvalidInput
from lib.core.labels import Code, Label, LabelSchema
from lib.demo.cohort import DRAFT, GATE, HELD_OUT, TRAIN, case_files
from lib.demo.folder import divide, folder_cohort, known_rule, patient_rule
from lib.dicom.seg import read_seg
from lib.dicom.series import assemble

SCHEMA = LabelSchema(
    (
        Label("anterior hippocampus", 1, (200, 0, 0), Code("5366008", "Hippocampus")),
        Label("posterior hippocampus", 2, (0, 200, 0), Code("5366008", "Hippocampus")),
    )
)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def write_pair(folder: Path, name: str, label_shape: tuple[int, int, int] = (8, 9, 7)) -> None:
    rng = np.random.default_rng(len(name) + ord(name[-1]))
    image = rng.integers(0, 900, (8, 9, 7)).astype(np.int16)
    label = np.zeros(label_shape, np.uint8)
    label[2:4, 3:6, 2:5], label[4:6, 3:6, 2:5] = 1, 2
    for kind, array in (("images", image), ("labels", label)):
        (folder / kind).mkdir(exist_ok=True, parents=True)
        nibabel.Nifti1Image(array, AFFINE).to_filename(folder / kind / f"{name}.nii.gz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(1, 11):
        write_pair(tmp_path / "set", f"scan_{number:02d}")
    return tmp_path / "set"


def test_with_pairs_two_neighbouring_numbers_are_one_patient() -> None:
    patient = patient_rule("pairs")
    assert [patient(f"hippocampus_{n:03d}") for n in (1, 2, 3, 4, 199)] == ["0001", "0001", "0002", "0002", "0100"]
    with pytest.raises(InvalidInput, match="must match every file name, but not 'nameless'"):
        patient("nameless")


def test_a_regular_expression_names_the_patient_with_its_first_group() -> None:
    assert patient_rule(r"^(p\d+)_")("p07_visit2") == "p07"
    with pytest.raises(InvalidInput, match="needs a group"):
        patient_rule(r"p\d+")
    with pytest.raises(InvalidInput, match="each, pairs or a regular expression"):
        patient_rule("(p")


def test_only_the_hippocampus_set_is_known_to_hold_two_files_a_patient() -> None:
    assert known_rule(["hippocampus_001", "hippocampus_006"]) == "pairs"
    assert known_rule(["hippocampus_001", "other"]) == "each"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (10, (6, 2, 0, 2)),
        (3, (1, 1, 0, 1)),
        (4, (2, 1, 0, 1)),
        (47, (28, 9, 0, 10)),
        (48, (29, 5, 5, 9)),
        (132, (79, 13, 13, 27)),
    ],
)
def test_patients_are_divided_60_20_20_and_half_of_those_held_out_are_the_gates_where_that_is_enough(
    count: int, expected: tuple[int, int, int, int]
) -> None:
    counts = Counter(divide([f"p{k}" for k in range(count)]).values())
    assert (counts[TRAIN], counts[HELD_OUT], counts[GATE], counts[DRAFT]) == expected


def test_the_division_is_the_same_in_every_run_and_needs_three_patients() -> None:
    patients = [f"p{k}" for k in range(10)]
    assert divide(patients) == divide(patients[::-1])
    with pytest.raises(InvalidInput, match=r"at least 3 patients .* got 2"):
        divide(["a", "b"])


def test_all_files_of_a_patient_have_one_role_and_one_patient_id(folder: Path) -> None:
    cohort = folder_cohort(folder, SCHEMA, "MR", "pairs")
    assert len(cohort) == 10
    by_patient: dict[str, set[str]] = {}
    for case in cohort:
        by_patient.setdefault(case.patient_id, set()).add(case.role)
    assert len(by_patient) == 5
    assert all(len(roles) == 1 for roles in by_patient.values())
    assert Counter(case.role for case in cohort) == {TRAIN: 6, HELD_OUT: 2, DRAFT: 2}


def test_a_nifti_case_becomes_a_series_and_a_segmentation_at_the_same_places(folder: Path) -> None:
    case = next(case for case in folder_cohort(folder, SCHEMA, "MR", "each") if case.labelled)
    volume, mask = case.load()
    files = case_files(case)
    source = assemble(files.images)
    found = read_seg(files.segmentation, source, SCHEMA)
    for label in SCHEMA:
        wanted_mm = mask.geometry.to_lps(np.argwhere(mask.array == label.id))
        found_mm = found.geometry.to_lps(np.argwhere(found.array == label.id))
        assert sorted(map(tuple, np.round(wanted_mm, 3))) == sorted(map(tuple, np.round(found_mm, 3)))
    assert source.volume.modality == "MR"
    assert np.sort(source.volume.array.ravel()) == pytest.approx(np.sort(volume.array.ravel()))


def test_uids_follow_from_the_content_not_from_the_place(folder: Path, tmp_path: Path) -> None:
    before = [case.series_uid for case in folder_cohort(folder, SCHEMA, "MR", "each")]
    folder.rename(tmp_path / "moved")
    assert [case.series_uid for case in folder_cohort(tmp_path / "moved", SCHEMA, "MR", "each")] == before


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"must hold images/ and labels/, but there is no .*nowhere/images"):
        folder_cohort(tmp_path / "nowhere", SCHEMA, "MR")
    (folder / "labels" / "scan_03.nii.gz").unlink()
    with pytest.raises(InvalidInput, match=r"there is no .*labels/scan_03.nii.gz"):
        folder_cohort(folder, SCHEMA, "MR")


def test_a_label_on_another_grid_is_refused(folder: Path) -> None:
    write_pair(folder, "scan_01", label_shape=(8, 9, 8))
    case = folder_cohort(folder, SCHEMA, "MR")[0]
    with pytest.raises(GeometryMismatch, match=r"8x9x7|7x9x8"):
        case.load()
