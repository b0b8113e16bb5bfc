"""A cohort as manifest and as data set: what is read back is what went in, whole or not at all."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.errors import ArchiveUnavailable, Conflict, InvalidInput, NotFound
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask
from lib.dicom.nifti import read_mask, read_volume
from lib.ledger.rows import NewHuman, NewSeries
from lib.workflows.curate.export import MANIFEST, Exported, export_data_set, export_manifest, make_manifest, renumbered
from lib.workflows.curate.layouts import LayoutName, file_ids, image_path, label_path
from lib.workflows.curate.picking import DEFAULT_SPLITS, case_name, pick
from lib.workflows.curate.staging import staged_folder
from lib.workflows.presegment import load_series
from lib.workflows.review import annotation_mask
from lib.workflows.services import Services

Adder = Callable[..., str]
Labeller = Callable[..., int]
DATASET = "Dataset501_Odd"


def series_of(services: Services, annotation: int) -> str:
    return services.ledger.annotations.get(annotation).series_uid


@pytest.fixture
def cohort(services: Services, add_series: Adder, label: Labeller) -> dict[str, str]:
    """A cohort of series by what becomes of them."""
    held = series_of(services, label("p5", "promotion", seed=5))
    tuned = series_of(services, label("p6", "calibration", seed=6))
    members = {
        "drawn": series_of(services, label("p1", seed=1, cube=True)),
        "empty": series_of(services, label("p2", seed=2, empty=True)),
        "waits": series_of(services, label("p3", seed=3, accept=False)),
        "plain": add_series("p1", seed=4),
        "promotion": held,
        "calibration": tuned,
    }
    services.ledger.curation.create("odd", "balls with a cube", "anna")
    services.ledger.curation.add("odd", list(members.values()), "anna")
    return members


def export(services: Services, to: Path, layout: LayoutName = "nnunet", **more: object) -> Exported:
    return export_data_set(services, services.task(), "odd", layout, to, "anna", **more)  # type: ignore[arg-type]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def name_of(services: Services, uid: str) -> str:
    (case,) = [case for case in services.ledger.curation.cases(services.task().name) if case.series_uid == uid]
    return case_name(case)


@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_what_is_read_back_is_image_and_label_on_their_grid(
    services: Services, cohort: dict[str, str], tmp_path: Path, layout: LayoutName
) -> None:
    folder = tmp_path / DATASET
    export(services, folder, layout)
    names = {what: name_of(services, uid) for what, uid in cohort.items()}
    assert files_of(folder) == {
        "dataset.json",
        MANIFEST,
        *(image_path(layout, names[what], True) for what in ("drawn", "empty")),
        *(label_path(names[what]) for what in ("drawn", "empty")),
        *(image_path(layout, names[what], False) for what in ("waits", "plain")),
    }
    schema = LabelSchema(tuple(replace(one, id={"ball": 2, "cube": 1}[one.name]) for one in services.task().schema))
    for what in ("drawn", "empty", "waits", "plain"):
        source = load_series(services, cohort[what])
        image = read_volume(folder / image_path(layout, names[what], what in ("drawn", "empty")), "CT")
        np.testing.assert_array_equal(image.array, source.volume.array)
        image.geometry.require_same(source.volume.geometry, "the exported image")
    annotation = services.ledger.annotations.latest_label(cohort["drawn"], services.task().name)
    assert annotation is not None
    truth = annotation_mask(services, annotation.id)
    mask = read_mask(folder / label_path(names["drawn"]), schema)
    mask.geometry.require_same(truth.geometry, "the exported label")
    assert mask.voxels() == truth.voxels()
    assert mask.voxels()["cube"] == 9
    np.testing.assert_array_equal(mask.array == 2, truth.array == 3)
    assert read_mask(folder / label_path(names["empty"]), schema).is_empty


def test_nnunet_is_told_channels_labels_without_gaps_and_how_many_there_are(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    export(services, tmp_path / DATASET)
    told = json.loads((tmp_path / DATASET / "dataset.json").read_text())
    assert told == {
        "name": DATASET,
        "description": services.task().description,
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "cube": 1, "ball": 2},
        "numTraining": 2,
        "numTest": 2,
        "file_ending": ".nii.gz",
    }


def test_the_msd_is_told_every_file(services: Services, cohort: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "Task01_Odd"
    export(services, folder, "msd")
    told = json.loads((folder / "dataset.json").read_text())
    assert (told["modality"], told["labels"]) == ({"0": "CT"}, {"0": "background", "1": "cube", "2": "ball"})
    assert (told["numTraining"], told["numTest"], told["tensorImageSize"]) == (2, 2, "3D")
    named = [*(path for pair in told["training"] for path in pair.values()), *told["test"]]
    assert {str(Path(path)) for path in named} == files_of(folder) - {"dataset.json", MANIFEST}
    assert {Path(pair["image"]).name for pair in told["training"]} == {Path(p["label"]).name for p in told["training"]}


def test_the_manifest_names_uids_checksums_annotations_and_what_was_held_out(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / DATASET
    done = export(services, folder)
    made = json.loads((folder / MANIFEST).read_text())
    assert made == done.manifest
    assert made["counts"] == {"labelled": 2, "unlabelled": 2, "held_out": {"promotion": 1, "calibration": 1}}
    assert done.words == (
        "2 labelled and 2 unlabelled cases; held out: 1 of calibration patients, 1 of promotion patients"
    )
    assert [(one["name"], one["task_id"], one["file_id"]) for one in made["task"]["labels"]] == [
        ("ball", 3, 2),
        ("cube", 1, 1),
    ]
    cases = {one["series_uid"]: one for one in made["cases"]}
    assert set(cases) == {cohort[what] for what in ("drawn", "empty", "waits", "plain")}
    drawn = cases[cohort["drawn"]]
    row = services.ledger.annotations.latest_label(cohort["drawn"], services.task().name)
    assert row is not None
    assert (drawn["label"]["annotation"], drawn["label"]["sop_instance_uid"]) == (row.id, row.sop_instance_uid)
    assert (drawn["split"], drawn["patient"]) == ("pool", "p1")
    assert cases[cohort["waits"]]["label"] is None
    for path, checksum in drawn["files"].items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == checksum
    image, mask = (nibabel.load(folder / path).get_fdata().transpose() for path in drawn["files"])
    assert hashlib.sha256(image.astype("<f4").tobytes()).hexdigest() == drawn["image"]["sha256"]
    by_task = np.array([0, 1, 3], np.uint8)[mask.astype(int)]  # the ids in the file are 1 and 2, the task's 1 and 3
    assert hashlib.sha256(by_task.tobytes()).hexdigest() == drawn["label"]["sha256"]
    assert drawn["image"]["shape"] == list(image.shape)
    Geometry(tuple(drawn["image"]["shape"]), drawn["image"]["affine_lps_mm"]).require_same(
        load_series(services, cohort["drawn"]).volume.geometry, "the manifest's grid"
    )


def test_gate_and_calibration_patients_leave_only_when_they_are_named(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    assert DEFAULT_SPLITS == ("pool",)
    done = export(services, tmp_path / DATASET, splits=("promotion", "pool"))
    assert done.manifest["splits"] == ["promotion", "pool"]
    assert done.manifest["counts"] == {"labelled": 3, "unlabelled": 2, "held_out": {"calibration": 1}}
    with pytest.raises(InvalidInput, match="split must be one of pool, calibration, promotion, got 'test'"):
        pick(services, services.task(), "odd", ["test"])


def test_no_file_name_and_no_header_tells_who_the_patient_is(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / DATASET
    export(services, folder)
    for path in folder.rglob("*.nii.gz"):
        header = nibabel.load(path).header
        assert {bytes(header[key]).strip(b"\0") for key in ("descrip", "intent_name", "db_name", "aux_file")} <= {b""}
        assert path.name.split("_")[0] in {"p1", "p2", "p3"}  # pseudonyms, cut
    told = (folder / MANIFEST).read_text()
    assert "Ann" not in told  # who labelled
    assert "anna" not in told


def test_no_words_of_scanners_or_people_leave_with_a_data_set(
    services: Services, cohort: dict[str, str], add_series: Adder, tmp_path: Path
) -> None:
    task, refused = replace(services.task(), series_description="ball"), add_series("p8")
    services.ledger.series.refuse(refused, "St Elsewhere's scanner lost slices")
    services.ledger.series.add(NewSeries("1.2.3", "1.2", "p9", "pool", "CT", "Jane Doe 1970", 3))
    services.ledger.series.set_ready("1.2.3", [], "1.3")
    services.ledger.curation.create("free", "of Jane Doe, St Elsewhere's", "anna")
    services.ledger.curation.add("free", [cohort["drawn"], refused, "1.2.3"], "anna")
    done = export_data_set(services, task, "free", "nnunet", tmp_path / DATASET, "anna")
    written = "".join((tmp_path / DATASET / name).read_text() for name in (MANIFEST, "dataset.json"))
    assert "Jane Doe" not in written
    assert "Elsewhere" not in written
    assert "got 'Jane Doe 1970'" in " ".join(one.details for one in done.left_out)
    assert sorted(one["reason"] for one in done.manifest["left_out"]) == ["not-for-this-task", "not-ready"]


def test_the_name_of_a_case_is_short_stable_and_its_own(services: Services, add_series: Adder) -> None:
    first, second = add_series("0123456789abcdef0123456789abcdef"), add_series("0123456789abcdef0123456789abcdef")
    names = [name_of(services, uid) for uid in (first, second)]
    assert [name.split("_")[0] for name in names] == ["0123456789ab"] * 2
    assert names[0].split("_")[1] == hashlib.sha256(first.encode()).hexdigest()[:8]
    assert len(set(names)) == 2
    assert name_of(services, add_series("../../etc/passwd")).startswith("etcpasswd_")


def test_an_export_is_in_the_audit_trail_with_the_manifest_s_checksum(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    done = export(services, tmp_path / DATASET)
    row = services.ledger.audit.list(limit=1)[0]
    assert (row.actor, row.action, row.subject) == ("anna", "cohort.exported", "cohort odd")
    assert (
        row.details["sha256"] == hashlib.sha256((tmp_path / DATASET / MANIFEST).read_bytes()).hexdigest() == done.sha256
    )
    assert row.details["series"] == sorted(cohort[what] for what in ("drawn", "empty", "waits", "plain"))
    assert (row.details["layout"], row.details["splits"], row.details["labelled"]) == ("nnunet", ["pool"], 2)


def test_the_manifest_alone_is_written_over_an_older_one_and_equals_the_data_set_s(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "out" / "odd.json"
    path.parent.mkdir()
    path.write_text("old")
    alone = export_manifest(services, services.task(), "odd", path, "anna")
    assert json.loads(path.read_text()) == alone.manifest
    assert [child.name for child in path.parent.iterdir()] == ["odd.json"]
    assert [label["file_id"] for label in alone.manifest["task"]["labels"]] == [3, 1]
    both = export(services, tmp_path / DATASET).manifest
    assert [{**case, "files": {}} for case in both["cases"]] == alone.manifest["cases"]
    assert alone.manifest["cases"] == make_manifest(services, services.task(), "odd")["cases"]
    with pytest.raises(InvalidInput, match="the path of a file, got the folder"):
        export_manifest(services, services.task(), "odd", tmp_path, "anna")


def test_what_cannot_be_read_is_left_out_with_the_reason(
    services: Services, cohort: dict[str, str], add_series: Adder, tmp_path: Path
) -> None:
    gone, refused, other = add_series("p7"), add_series("p8"), "1.2.3"
    services.ledger.series.set_gone(gone)
    services.ledger.series.refuse(refused, "slices are missing")
    services.ledger.series.add(NewSeries(other, "1.2", "p9", "pool", "MR", "ball", 3))
    services.ledger.series.set_ready(other, [], "1.3")
    services.archive.delete_series(cohort["plain"])
    services.ledger.curation.add("odd", [gone, refused, other], "anna")
    done = export(services, tmp_path / DATASET)
    details = {one.series_uid: one.details for one in done.left_out}
    assert details[gone] == "it is gone"
    assert details[refused] == "it is refused: slices are missing"
    assert "takes CT, the series is MR" in details[other]
    assert f"no series {cohort['plain']}" in details[cohort["plain"]]
    assert {one["series_uid"]: one["reason"] for one in done.manifest["left_out"]} == {
        gone: "not-ready",
        refused: "not-ready",
        other: "not-for-this-task",
        cohort["plain"]: "unreadable",
    }
    assert done.manifest["counts"]["unlabelled"] == 1
    assert "4 series could not be used" in done.words


def test_a_label_that_goes_while_its_cohort_is_exported_does_not_become_one(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    task = services.task()

    def reject(share: float, message: str) -> None:
        label = services.ledger.annotations.latest_label(cohort["drawn"], task.name)
        if label is not None:
            services.ledger.annotations.reject(label.id, "ben", "wrong")

    done = export(services, tmp_path / DATASET, tell=reject)
    assert done.manifest["left_out"] == [{"series_uid": cohort["drawn"], "reason": "label-changed"}]
    assert "became rejected while the cohort was exported: export again" in done.left_out[0].details


def test_nothing_to_export_says_why(
    services: Services, cohort: dict[str, str], add_series: Adder, tmp_path: Path
) -> None:
    task, curation = services.task(), services.ledger.curation
    with pytest.raises(NotFound, match="there is no cohort 'none'; there are: odd"):
        export_data_set(services, task, "none", "nnunet", tmp_path / DATASET, "anna")
    curation.create("gate", "", "anna")
    curation.add("gate", [cohort["promotion"]], "anna")
    with pytest.raises(InvalidInput, match="of 1 series 1 of promotion patients are held out, 0 cannot be used"):
        export_data_set(services, task, "gate", "nnunet", tmp_path / DATASET, "anna")
    services.archive.delete_series(cohort["plain"])
    curation.create("lost", "", "anna")
    curation.add("lost", [cohort["plain"]], "anna")
    with pytest.raises(InvalidInput, match="no series of cohort lost can be read: no series"):
        export_data_set(services, task, "lost", "nnunet", tmp_path / DATASET, "anna")
    assert not (tmp_path / DATASET).exists()


def test_a_data_set_has_one_modality(services: Services, cohort: dict[str, str], tmp_path: Path) -> None:
    task = replace(services.task(), modalities=("CT", "MR"))
    services.ledger.series.add(NewSeries("1.2.3", "1.2", "p9", "pool", "MR", "ball", 3))
    services.ledger.series.set_ready("1.2.3", [], "1.3")
    services.ledger.curation.add("odd", ["1.2.3"], "anna")
    with pytest.raises(InvalidInput, match="one modality, got 4 CT, 1 MR: make a cohort of each"):
        export_data_set(services, task, "odd", "msd", tmp_path / "x", "anna")


def test_nnunet_s_folder_needs_a_name_that_it_finds(services: Services, cohort: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="folders like Dataset501_Spleen"):
        export(services, tmp_path / "odd")
    assert export(services, tmp_path / "odd", "msd").path == tmp_path / "odd"


def test_a_folder_that_is_there_is_never_touched(services: Services, cohort: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / DATASET
    folder.mkdir()
    (folder / "mine").write_text("x")
    with pytest.raises(Conflict, match="is there already"):
        export(services, folder)
    assert files_of(tmp_path / DATASET) == {"mine"}
    assert not (tmp_path / f".{DATASET}.partial").exists()


def test_an_archive_that_goes_away_ends_the_export_and_leaves_nothing(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    services.archive.goes_after = len(services.archive.fetched) + 2  # type: ignore[attr-defined]
    before = len(services.ledger.audit.list())
    with pytest.raises(ArchiveUnavailable):
        export(services, tmp_path / DATASET)
    assert not any(DATASET in path.name for path in tmp_path.iterdir())
    assert len(services.ledger.audit.list()) == before


def test_what_a_killed_export_left_is_not_seen_and_the_next_one_starts_over(
    services: Services, cohort: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / DATASET
    code = (
        "import os, sys; from pathlib import Path; from lib.workflows.curate.staging import staged_folder\n"
        "with staged_folder(Path(sys.argv[1])) as f:\n"
        "    (f / 'imagesTr').mkdir(); (f / 'imagesTr' / 'half.nii.gz').write_text('x'); os.kill(os.getpid(), 9)"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    assert files_of(tmp_path / f".{DATASET}.partial") == {"imagesTr/half.nii.gz"}
    export(services, folder)
    assert not (tmp_path / f".{DATASET}.partial").exists()
    assert not any("half" in path for path in files_of(folder))


def test_two_exports_do_not_fill_one_folder(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "x") as one:
        (one / "file").write_text("1")
        with pytest.raises(Conflict, match="another process is filling"), staged_folder(tmp_path / "x"):
            raise AssertionError("it must not come this far")
    assert files_of(tmp_path / "x") == {"file"}
    with pytest.raises(InvalidInput, match="a folder is to be made in"), staged_folder(tmp_path / "x" / "file" / "y"):
        raise AssertionError("it must not come this far")


@given(st.sets(st.integers(1, 255), min_size=1, max_size=20), st.randoms())
def test_ids_in_files_have_no_gap_keep_their_order_and_lose_nothing(ids: set[int], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    schema = LabelSchema(tuple(Label(f"l{n}", n, (0, 0, 0), Code("1", "x")) for n in shuffled))
    found = file_ids(schema)
    assert [found[f"l{n}"] for n in sorted(ids)] == list(range(1, len(ids) + 1))
    grid = Geometry.from_spacing((1, 1, len(ids) + 1), (1.0, 1.0, 1.0))
    mask = Mask(np.array([[[0, *shuffled]]], np.uint8), grid, schema)
    other = LabelSchema(tuple(replace(label, id=found[label.name]) for label in schema))
    there = renumbered(mask, other)
    assert there.voxels() == mask.voxels()
    np.testing.assert_array_equal(renumbered(there, schema).array, mask.array)


def test_a_held_label_is_none(services: Services, add_series: Adder, tmp_path: Path) -> None:
    uid = add_series("p1")
    services.ledger.annotations.add_human(
        NewHuman(uid, services.task().name, "Ann", nothing_found=True, held_reason="it is empty"), accept=True
    )
    services.ledger.curation.create("odd", "", "anna")
    services.ledger.curation.add("odd", [uid], "anna")
    assert export(services, tmp_path / DATASET).manifest["counts"]["labelled"] == 0
