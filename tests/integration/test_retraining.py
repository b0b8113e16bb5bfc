"""A correction from the viewer becomes a model version, by the real worker and its training process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.inference.model import read_manifest
from lib.ledger.pseudonym import pseudonym
from lib.settings import environment_of
from lib.workflows.retrain import request_retrain
from lib.workflows.services import Services
from loop import body, install, liver_of, settle, upload
from ohif import ohif_export

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]


def finished(services: Services, job_id: int, timeout_s: float = 180):
    """The job's row once it is closed."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        row = services.ledger.jobs.get(job_id)
        if row.state in ("done", "failed", "cancelled"):
            return row
        time.sleep(0.2)
    raise AssertionError(f"job {job_id} is still {row.state}: {row.message}")


def test_a_stored_correction_trains_a_version_that_serves_and_drafts_the_rest(own_orthanc, tmp_path: Path):
    services = install(own_orthanc, tmp_path / "var")
    task = services.task()
    for number, split in enumerate(("pool", "pool", "calibration", "pool")):
        services.ledger.series.assign_split(pseudonym(f"P{number}", services.key), split)
    sources = [upload(services, body(number), f"P{number}") for number in range(4)]
    settle(services)
    for rle, source in zip((False, True, False), sources[:3], strict=True):
        services.archive.store([ohif_export(liver_of(task, source.geometry), source, rle=rle)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRANSUNET_")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "lib.cli", "worker"], env=environment | environment_of(services.settings)
    )
    try:
        while len(services.ledger.annotations.accepted(task.name)) < 3:
            assert worker.poll() is None
            time.sleep(0.2)
        job = finished(services, request_retrain(services, task, {"steps": 2}, "test"))
        assert job.state == "done", job.error
        champion = services.registry.champion(task.name)
        labels = services.ledger.annotations.accepted(task.name, "pool")
        assert sorted(read_manifest(champion.folder).annotations) == sorted(label.id for label in labels)
        assert (job.result["version"], job.result["promoted"], job.result["calibration"]) == (champion.version, True, 1)
        while (draft := services.ledger.annotations.latest_draft(sources[3].series_uid, task.name)) is None:
            time.sleep(0.2)
        assert draft.model_version == champion.version
    finally:
        worker.terminate()
        assert worker.wait(60) == 0
