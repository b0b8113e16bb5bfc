"""The demo as people start it: real Orthanc, real server and worker, a tiny cohort of NIfTI files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest

from lib.cli import processes
from lib.cli.demo_upload import Upload, assign_splits
from lib.cli.orthanc_process import OrthancProcess, start_orthanc
from lib.demo import cohort as demo_cohort
from lib.demo.folder import folder_cohort
from lib.ledger.pseudonym import pseudonym
from lib.settings import load_settings
from lib.workflows.services import Services, open_services

TASK = """
name: blobs
description: A bright ball and a dim one
modalities: [MR]
labels:
  - {name: ball, id: 1, color: [230, 140, 60], code: {value: "123037004", meaning: Anatomical Structure}}
  - {name: dim ball, id: 2, color: [80, 170, 220], code: {value: "123037004", meaning: Anatomical Structure}}
training: {steps: 40, batch_size: 8}
"""
PATIENTS = 6
READY_TIMEOUT_S = 400.0
STOP_TIMEOUT_S = 60.0

pytestmark = pytest.mark.orthanc


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("balls")
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(36), np.arange(10), indexing="ij"), axis=-1)
    for number in range(PATIENTS):
        rng = np.random.default_rng(number)
        near, far = (np.linalg.norm(grid - rng.normal(c, 1.5, 3), axis=-1) < 6 for c in ((12, 17, 5), (28, 18, 5)))
        label = np.where(near, 1, np.where(far, 2, 0)).astype(np.uint8)
        image = (rng.normal(200, 30, label.shape) + 500 * near + 200 * far).clip(0).astype(np.int16)
        for kind, array in (("images", image), ("labels", label)):
            (folder / kind).mkdir(exist_ok=True)
            nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])).to_filename(
                folder / kind / f"ball_{number}.nii.gz"
            )
    (folder / "blobs.yaml").write_text(TASK)
    return folder


@pytest.fixture
def services(own_orthanc: OrthancProcess, data: Path, tmp_path: Path) -> Services:
    options = {
        "archive.url": own_orthanc.dicomweb_url,
        "archive.username": own_orthanc.username,
        "archive.password": own_orthanc.password,
        "tasks": str(data / "blobs.yaml"),
    }
    made = open_services(load_settings(options.items(), environ={"TRANSUNET_VAR": str(tmp_path / "var")}))
    made.ledger.upgrade()
    return made


def run_upload(services: Services, cases: tuple[demo_cohort.CohortCase, ...], folder: Path) -> Upload:
    upload = Upload(services, cases, folder)
    upload.start()
    upload.join(120)
    return upload


def test_a_cohort_is_stored_once_however_often_it_is_uploaded(
    services: Services, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = folder_cohort(data, services.task().schema, "MR")
    first = run_upload(services, cases, tmp_path)
    assert (first.error, first.stored) == (None, PATIENTS)
    headers = {header.series_uid: header for header in services.archive.series()}
    assert Counter(header.modality for header in headers.values()) == {"MR": PATIENTS, "SEG": 5}
    assert all(headers[case.series_uid].instances == 10 for case in cases)

    made: list[str] = []
    real = demo_cohort.case_files
    monkeypatch.setattr(demo_cohort, "case_files", lambda case: made.append(case.title) or real(case))
    services.archive.delete_series(cases[2].series_uid)
    second = run_upload(services, cases, tmp_path)
    assert (second.error, second.stored) == (None, PATIENTS)
    assert made == [cases[2].title]  # what is missing is brought again, the others are left alone
    assert {header.series_uid for header in services.archive.series()} == set(headers)


def test_held_out_patients_are_fixed_before_their_images_arrive_and_keep_their_split(
    services: Services, data: Path
) -> None:
    cases = folder_cohort(data, services.task().schema, "MR")
    first = pseudonym(cases[0].patient_id, services.key)
    services.ledger.series.assign_split(first, "promotion")
    assign_splits(services, cases)
    assert services.ledger.series.patient_split(first) == "promotion"
    for case in cases[1:]:
        split = services.ledger.series.patient_split(pseudonym(case.patient_id, services.key))
        assert split == ("calibration" if case.role == demo_cohort.HELD_OUT else "pool")


def test_an_archive_that_is_away_ends_the_upload_with_the_reason(
    services: Services, own_orthanc: OrthancProcess, data: Path, tmp_path: Path
) -> None:
    own_orthanc.kill()
    upload = run_upload(services, folder_cohort(data, services.task().schema, "MR"), tmp_path)
    assert own_orthanc.url in str(upload.error)


class Demo:
    """A demo as a child process.

    Args:
        var: its state folder.
        arguments: of `transunet-label demo`.
    """

    def __init__(self, var: Path, *arguments: str) -> None:
        self.var = var
        self.log = var.parent / "demo.log"
        environment = {**os.environ, "TRANSUNET_VAR": str(var), "TRANSUNET_SERVER__PORT": "0", "COLUMNS": "200"}
        command = [sys.executable, "-m", "lib.cli", "demo", *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=hear_ctrl_c
            )

    def said(self, words: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return words in self.log.read_text()

    def family(self) -> list[psutil.Process]:
        """What it started, at whatever depth."""
        return processes.marked(self.var / "demo")


def hear_ctrl_c() -> None:
    """As a terminal starts a program: tests that run in the background of a shell inherit that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    """A state folder; nothing of a failed test outlives it."""
    yield tmp_path / "var"
    processes.end_marked(tmp_path / "var" / "demo")


@pytest.mark.server
@pytest.mark.slow
def test_the_demo_gets_ready_survives_a_kill_and_ends_all_it_started(var: Path, data: Path) -> None:
    options = ("--data", str(data), "--task", str(data / "blobs.yaml"), "--json", str(var.parent / "out.json"))

    killed = Demo(var, *options)
    wait_for(lambda: killed.said("worklist:"), READY_TIMEOUT_S)
    assert len(killed.family()) >= 3  # Orthanc, server, worker
    killed.process.kill()
    killed.process.wait()

    done = Demo(var, *options, "--until-ready")
    assert done.process.wait(READY_TIMEOUT_S) == 0, done.log.read_text()
    assert done.family() == []
    first = json.loads((var.parent / "out.json").read_text())
    assert {key: first[key] for key in ("series", "labelled", "drafted", "model_version")} == {
        "series": 6,
        "labelled": 5,
        "drafted": 1,
        "model_version": 1,
    }
    assert set(first) >= {"heldout_dice", "seconds", "orthanc", "server", "worklist"}
    assert set(first["heldout_dice"]) == {"mean", "ball", "dim ball"}
    assert series_in_the_archive(var) == {"MR": 6, "SEG": archived_segs(var)}

    again = Demo(var, *options)
    wait_for(lambda: again.said("Ctrl-C"), READY_TIMEOUT_S)
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(STOP_TIMEOUT_S) == 130
    assert again.family() == []
    second = json.loads((var.parent / "out.json").read_text())
    assert (second["model_version"], second["drafted"]) == (1, 1)
    assert series_in_the_archive(var) == {"MR": 6, "SEG": archived_segs(var)}


def archived_segs(var: Path) -> int:
    """Labels and drafts that the ledger believes to be in the archive."""
    services = open_services(load_settings(environ={"TRANSUNET_VAR": str(var)}))
    rows = services.ledger.annotations.list(limit=None)
    return sum(row.status in ("accepted", "draft") and not row.nothing_found for row in rows)


def series_in_the_archive(var: Path) -> dict[str, int]:
    """Number of series by modality, from the demo's own Orthanc."""
    account = json.loads((var / "demo" / "account.json").read_text())
    with start_orthanc(var / "orthanc", account["port"], "demo", account["password"]) as orthanc:
        options = {"archive.url": orthanc.dicomweb_url, "archive.username": "demo"}
        environ = {"TRANSUNET_VAR": str(var), "TRANSUNET_ARCHIVE__PASSWORD": account["password"]}
        services = open_services(load_settings(options.items(), environ=environ))
        return dict(Counter(header.modality for header in services.archive.series()))
