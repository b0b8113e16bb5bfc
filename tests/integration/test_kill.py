"""kill -9 at each step that writes: afterwards ledger and archive agree, nothing is lost and nothing is there twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.cli.orthanc_process import OrthancProcess
from lib.settings import environment_of
from lib.workflows.review import submit_mask
from lib.workflows.services import Services
from loop import body, conf_of, install, liver_of, register_random_model, settle, upload
from ohif import ohif_export

pytestmark = pytest.mark.orthanc

TESTS = Path(__file__).parents[1]
STEPS = (
    ("ledger.series.add", "after", 1),
    ("ledger.jobs.add", "before", 2),
    ("ledger.jobs.add", "after", 1),
    ("ledger.series.set_ready", "after", 1),
    ("ledger.jobs.finish", "before", 1),
    ("ledger.annotations.add_human", "before", 1),
    ("ledger.annotations.add_human", "after", 1),
    ("ledger.annotations.add_draft", "before", 1),
    ("ledger.annotations.add_draft", "after", 1),
    ("archive.store", "before", 1),
    ("archive.store", "after", 1),
    ("ledger.outbox.done", "before", 2),
    ("ledger.outbox.done", "after", 1),
)
SHORT_LEASE = {"worker__job_lease_s": "1"}


@pytest.fixture
def services(own_orthanc: OrthancProcess, tmp_path: Path) -> Services:
    """Three series, one of them labelled in the viewer and one labelled by upload; a model for drafts."""
    services = install(own_orthanc, tmp_path / "var", **SHORT_LEASE)
    task = services.task()
    sources = [upload(services, body(seed), f"P{seed}") for seed in range(3)]
    services.archive.store([ohif_export(liver_of(task, sources[0].geometry), sources[0])])
    submit_mask(services, task, sources[1], liver_of(task, sources[1].geometry), "anna")
    register_random_model(services, task, tmp_path / "model")
    return services


def require_agreement(services: Services) -> None:
    """Each series once and ready; one label or one draft each; every SEG of the archive has its row and the reverse."""
    headers = services.archive.series()
    images = [header.series_uid for header in headers if header.modality == "CT"]
    rows = services.ledger.series.list()
    assert sorted(row.series_uid for row in rows) == sorted(images)
    assert {row.status for row in rows} == {"ready"}
    living = [row for row in services.ledger.annotations.list(limit=1000) if row.status in ("draft", "accepted")]
    assert sorted(row.series_uid for row in living) == sorted(images)
    assert sorted(row.status for row in living) == ["accepted"] * (len(images) - 1) + ["draft"]
    in_archive = sorted(header.series_uid for header in headers if header.modality == "SEG")
    assert in_archive == sorted(row.seg_series_uid for row in living)
    assert services.ledger.outbox.open_count() == 0


@pytest.mark.parametrize(("step", "when", "nth"), STEPS, ids=lambda value: str(value))
def test_a_kill_at_any_step_loses_nothing_and_repeats_nothing(services, own_orthanc, tmp_path, step, when, nth):
    conf = json.dumps(conf_of(own_orthanc, tmp_path / "var", **SHORT_LEASE))
    command = [sys.executable, str(TESTS / "killed_at.py"), conf, step, when, str(nth)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    time.sleep(1.1)  # the dead process's lease on its job runs out
    settle(services)
    settle(services)
    require_agreement(services)


def test_workers_killed_at_random_moments_leave_a_whole_state(services):
    environment = environment_of(services.settings)
    environment["TRANSUNET_INGEST__POLL_S"] = "0.2"
    moments = random.Random(20)
    for _ in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-m", "lib.cli", "worker"], env={**_own_environment(), **environment}
        )
        time.sleep(moments.uniform(3.0, 9.0))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    time.sleep(1.1)
    settle(services)
    require_agreement(services)


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRANSUNET_")}
