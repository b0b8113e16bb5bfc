import json
import shlex
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lib.cli.main import build_app
from lib.core.errors import InvalidInput, ManifestMismatch
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label
from lib.core.values import Mask, Volume
from lib.dicom.files import decode, encode
from lib.dicom.nifti import read_mask, write_mask, write_volume
from lib.dicom.seg import read_seg
from lib.dicom.series import assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets
from lib.inference.config import PreprocessConfig
from lib.inference.model import Manifest, build_network, load_predictor, read_manifest, save_model
from lib.inference.predictor import Predictor
from lib.networks.config import NetworkConfig
from lib.taskfile import Task
from lib.training.config import FitConfig
from lib.training.data import Case
from lib.training.fit import FitProgress
from lib.workflows import userfiles
from lib.workflows.offline import TrainOptions, divide, predict_file, train_folder
from lib.workflows.userfiles import Pair, pairs_of

GRID = Geometry.from_spacing((5, 24, 24), (3.0, 1.0, 1.0))


@pytest.fixture
def task() -> Task:
    labels = (
        Label("box", 4, (255, 0, 0), Code("123037004", "Anatomical Structure")),
        Label("dot", 9, (0, 0, 255), Code("123037004", "Anatomical Structure")),
    )
    training = FitConfig(steps=3, batch_size=2, checkpoint_every=1)
    return Task("boxes", "Boxes", ("CT",), labels, rare=("dot",), preprocess=PreprocessConfig(window_hu=(0, 100)),
                network=NetworkConfig(dropout=0.0), training=training)  # fmt: skip


def case(task: Task, seed: int) -> tuple[Volume, Mask]:
    """A bright box in noise."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(GRID.shape, dtype=np.uint8)
    mask[1:4, 4 + seed : 14 + seed, 6:16] = 4
    image = np.where(mask == 4, 90, 10) + rng.integers(-5, 6, mask.shape)
    return Volume(image.astype(np.float32), GRID, "CT"), Mask(mask, GRID, task.schema)


@pytest.fixture
def data(task: Task, tmp_path: Path) -> Path:
    """Four pairs in images/ and labels/."""
    for number in range(4):
        volume, mask = case(task, number)
        write_volume(volume, tmp_path / "images" / f"case{number}.nii.gz")
        write_mask(mask, tmp_path / "labels" / f"case{number}.nii.gz")
    return tmp_path


class Planted:
    """Stands for a model: says 4 where the image is bright."""

    def __init__(self, task: Task) -> None:
        network = build_network(task.network, task.schema)
        self.inner = Predictor(
            network, _preprocess(task), task.schema, next(iter(network.parameters())).device, batch_size=4
        )
        self.task = task

    def predict(self, volume: Volume, report: Callable[[float], None] | None = None) -> object:
        prediction = self.inner.predict(volume, report)
        mask = Mask(np.where(volume.array > 50, 4, 0), volume.geometry, self.task.schema)
        return replace(prediction, mask=mask)


def _preprocess(task: Task) -> object:
    from lib.inference.model import build_preprocess

    return build_preprocess(task.preprocess, task.network)


def silent(share: float, words: str) -> None:
    """No report."""


def test_files_of_one_name_pair_whatever_their_suffix_and_others_are_passed_over(data: Path) -> None:
    (data / "images" / "notes.txt").write_text("x")
    (data / "images" / ".hidden.nii.gz").write_text("x")
    (data / "labels" / "unused.nii.gz").write_text("x")
    pairs = pairs_of(data / "images", data / "labels")
    assert [pair.name for pair in pairs] == ["case0", "case1", "case2", "case3"]
    assert pairs[2].label == data / "labels" / "case2.nii.gz"


def test_folders_that_do_not_pair_are_refused_with_what_is_missing(data: Path, tmp_path: Path) -> None:
    (data / "labels" / "case1.nii.gz").unlink()
    with pytest.raises(InvalidInput, match="missing: case1"):
        pairs_of(data / "images", data / "labels")
    with pytest.raises(InvalidInput, match="there is no"):
        pairs_of(data / "nowhere", data / "labels")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"must hold NIfTI files \(.nii.gz or .nii\), got none"):
        pairs_of(tmp_path / "empty", data / "labels")
    (data / "images" / "case0.nii").write_text("x")
    with pytest.raises(InvalidInput, match=r"each name once, got case0\.nii and case0\.nii\.gz"):
        pairs_of(data / "images", data / "labels")


def test_patients_are_held_out_whole_and_always_the_same_ones() -> None:
    pairs = [Pair(f"p{n // 2}_{n}", Path("i"), Path("l")) for n in range(20)]
    learn, measure = divide(pairs, 0.3, lambda name: name.partition("_")[0])
    assert len(measure) == 6
    assert {p.name[:2] for p in learn}.isdisjoint({p.name[:2] for p in measure})
    assert divide(list(reversed(pairs)), 0.3, lambda name: name.partition("_")[0])[1] == measure[::-1]
    assert divide(pairs[:4], 0.5, lambda name: name.partition("_")[0]) == (pairs[:4], [])
    assert divide(pairs, 0.0, str)[1] == []


def test_training_on_folders_leaves_a_model_that_fits_the_task(task: Task, data: Path) -> None:
    seen: list[FitProgress] = []
    options = TrainOptions(seed=5, device="cpu", holdout=0.25)
    trained = train_folder(data / "images", data / "labels", task, data / "model", options, seen.append)
    assert (trained.cases, trained.held_out, trained.fit.steps) == (3, 1, 3)
    manifest = read_manifest(data / "model")
    assert (manifest.task, manifest.seed) == ("boxes", 5)
    assert manifest.metrics["mean_dice"] == pytest.approx(trained.fit.dice["box"])  # dot is rare
    assert seen[-1].stage == "validate"
    load_predictor(data / "model", task, "cpu", 2)
    assert sorted(path.name for path in (data / "model").iterdir()) == ["manifest.json", manifest.weights]


def test_cases_of_files_are_read_one_at_a_time_and_none_is_kept(
    task: Task, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    read = userfiles.read_case

    def counted(*args: Any) -> Case:
        alive.append(sum(array() is not None for array in arrays))
        found = read(*args)
        arrays.append(weakref.ref(found.volume.array))
        return found

    monkeypatch.setattr(userfiles, "read_case", counted)
    train_folder(data / "images", data / "labels", task, data / "model", TrainOptions(device="cpu"), lambda _: None)
    assert len(alive) > 4
    assert not any(alive)  # the one before has gone when the next is read


def test_a_held_out_file_that_cannot_be_read_is_said_before_the_training(task: Task, data: Path) -> None:
    pairs = pairs_of(data / "images", data / "labels")
    (broken,) = divide(pairs, 0.25, str)[1]
    broken.image.write_bytes(b"no image")
    seen: list[FitProgress] = []
    options = TrainOptions(device="cpu", holdout=0.25)
    with pytest.raises(InvalidInput, match=broken.name):
        train_folder(data / "images", data / "labels", task, data / "model", options, seen.append)
    assert seen == []


def test_a_training_starts_from_the_weights_of_the_folder_that_is_named(task: Task, data: Path) -> None:
    begun = train_folder(
        data / "images", data / "labels", task, data / "model", TrainOptions(device="cpu"), lambda _: None
    )
    options = TrainOptions(device="cpu", start=data / "model")
    gone_on = train_folder(data / "images", data / "labels", task, data / "next", options, lambda _: None)
    assert gone_on.fit.losses[0] != begun.fit.losses[0]  # the same batch, seen by other weights
    other = replace(task, name="others")
    with pytest.raises(ManifestMismatch, match="task = 'others'"):
        train_folder(data / "images", data / "labels", other, data / "other", options, lambda _: None)


def test_a_label_on_another_grid_is_refused_with_its_file(task: Task, data: Path) -> None:
    other = Geometry.from_spacing(GRID.shape, (3.0, 1.0, 1.1))
    write_mask(Mask(np.zeros(GRID.shape), other, task.schema), data / "labels" / "case2.nii.gz")
    with pytest.raises(InvalidInput, match=r"case2\.nii\.gz: the mask of case case2 must lie on the grid"):
        train_folder(data / "images", data / "labels", task, data / "model", TrainOptions(), lambda _: None)


def test_a_nifti_file_becomes_a_mask_on_its_own_grid(task: Task, data: Path) -> None:
    shares: list[float] = []
    found = predict_file(
        data / "images" / "case1.nii.gz", data / "out.nii.gz", task, Planted(task), "7", lambda s, _: shares.append(s)
    )
    assert found
    assert shares[-1] == 1.0
    written = read_mask(data / "out.nii.gz", task.schema)
    assert written.changed_voxels(case(task, 1)[1]) == 0


@pytest.fixture
def dicom_folder(task: Task, tmp_path: Path) -> Path:
    identity = SeriesIdentity(
        patient_id="1", patient_name="A^B", study_uid=new_uid(), series_uid=new_uid(),
        frame_of_reference_uid=new_uid(), description="boxes",
    )  # fmt: skip
    folder = tmp_path / "dicom"
    (folder / "deeper").mkdir(parents=True)
    for number, dataset in enumerate(series_to_datasets(case(task, 2)[0], identity)):
        (folder / "deeper" / f"{number}").write_bytes(encode(dataset))
    (folder / "readme.txt").write_text("no DICOM")
    return folder


def test_a_dicom_folder_becomes_a_seg_on_its_series(task: Task, dicom_folder: Path, tmp_path: Path) -> None:
    assert predict_file(dicom_folder, tmp_path / "out.dcm", task, Planted(task), "7", silent)
    seg = decode((tmp_path / "out.dcm").read_bytes())
    source = assemble([decode(path.read_bytes()) for path in sorted((dicom_folder / "deeper").iterdir())])
    assert read_seg(seg, source, task.schema).changed_voxels(case(task, 2)[1]) == 0
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_nothing_found_writes_no_seg_and_says_so(task: Task, dicom_folder: Path, tmp_path: Path) -> None:
    blind = Planted(task)
    blind.predict = lambda volume, report=None: replace(  # type: ignore[method-assign]
        blind.inner.predict(volume), mask=Mask(np.zeros(GRID.shape), volume.geometry, task.schema)
    )
    assert not predict_file(dicom_folder, tmp_path / "out.dcm", task, blind, "7", silent)
    assert not (tmp_path / "out.dcm").exists()
    assert not predict_file(dicom_folder, tmp_path / "out.nii", task, blind, "7", silent)
    assert read_mask(tmp_path / "out.nii", task.schema).is_empty


def test_what_cannot_be_predicted_is_refused_with_the_reason(task: Task, data: Path, dicom_folder: Path) -> None:
    image, planted = data / "images" / "case0.nii.gz", Planted(task)
    cases = {
        "there is no": (data / "nothing.nii", data / "out.nii"),
        r"must end in \.nii\.gz, \.nii or \.dcm, got 'out\.png'": (image, data / "out.png"),
        "a SEG needs the DICOM files": (image, data / "out.dcm"),
        "must hold the DICOM files of one series, got 8 other files": (data, data / "out.nii"),
    }
    (dicom_folder / "readme.txt").unlink()
    for path in (dicom_folder / "deeper").iterdir():
        path.unlink()
    for message, (source, target) in cases.items():
        with pytest.raises(InvalidInput, match=message):
            predict_file(source, target, task, planted, "7", silent)


def test_a_series_of_another_modality_is_refused(task: Task, dicom_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"takes MR, the series in .* is CT"):
        predict_file(dicom_folder, tmp_path / "out.nii", replace(task, modalities=("MR",)), Planted(task), "7", silent)


def task_file(folder: Path) -> Path:
    path = folder / "boxes.yaml"
    path.write_text(
        "name: boxes\ndescription: Boxes\nmodalities: [CT]\nlabels:\n"
        "  - {name: box, id: 4, color: [255, 0, 0], code: {value: '1', meaning: Box}}\n"
        "preprocess: {window_hu: [0, 100]}\nnetwork: {dropout: 0.0}\n"
        "training: {steps: 3, batch_size: 2}\n"
    )
    return path


def test_the_commands_work_one_after_the_other(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSUNET_VAR", str(data / "var"))
    run, app, task_path = CliRunner(), build_app(), str(task_file(data))
    folders = ["--images", str(data / "images"), "--labels", str(data / "labels"), "--task", task_path]
    trained = run.invoke(app, ["train", *folders, "--device", "cpu", "--threads", "1", "--seed", "2", "--no-log"])
    assert trained.exit_code == 0, trained.output
    model = data / "var" / "offline" / "boxes"
    assert "3 steps on 3 cases" in trained.output
    (line,) = [line for line in trained.output.splitlines() if line.startswith("measure it with: transunet-label ")]
    assert shlex.split(line)[4:] == ["evaluate", *folders, "--model", str(model)]
    assert read_manifest(model).seed == 2
    image, mask = str(data / "images" / "case0.nii.gz"), data / "mask.nii.gz"
    options = ["--model", str(model), "--task", task_path, "--device", "cpu", "--threads", "1"]
    predicted = run.invoke(app, ["predict", image, str(mask), *options])
    assert predicted.exit_code == 0, predicted.output
    assert mask.is_file()
    measured = run.invoke(app, ["evaluate", *folders[:4], *options, "--json", str(data / "figures.json")])
    assert measured.exit_code == 0, measured.output
    figures = json.loads((data / "figures.json").read_text())
    assert sorted(figures["cases"]) == ["case0", "case1", "case2", "case3"]
    assert figures["model"] == {"folders": [str(model)], "version": read_manifest(model).sha256[:12]}


def test_a_task_without_champion_says_how_to_get_a_model(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSUNET_VAR", str(data / "var"))
    monkeypatch.setattr("lib.registry.registry.Registry.champion", lambda _, task: None)
    command = ["predict", str(data / "images" / "case0.nii.gz"), str(data / "m.nii"), "--task", str(task_file(data))]
    result = CliRunner().invoke(build_app(), command)
    assert "no model serves task boxes" in str(result.exception)
    assert "--model" in str(result.exception)
    assert f"transunet-label train --task {data / 'boxes.yaml'} --images DIR --labels DIR" in str(result.exception)


@pytest.mark.parametrize("command", ["train", "predict", "evaluate"])
def test_help_shows_an_example(command: str) -> None:
    result = CliRunner().invoke(build_app(), [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: transunet-label {command}" in result.output


def test_a_model_of_another_task_is_refused(task: Task, data: Path) -> None:
    network = build_network(task.network, task.schema)
    save_model(data / "model", Manifest.describe(task, seed=0), network.state_dict())
    result = CliRunner().invoke(
        build_app(),
        ["predict", str(data / "images" / "case0.nii.gz"), str(data / "m.nii"), "--task", "phantom_ct",
         "--model", str(data / "model")],
    )  # fmt: skip
    assert "needs a model with task = 'phantom_ct', this one has 'boxes'" in str(result.exception)
