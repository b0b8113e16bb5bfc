"""A rollback on a running server: who asks two seconds later gets the old version, and nothing was started again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

from lib.settings import environment_of, load_settings
from lib.workflows.services import Services, open_services
from loop import body, register_random_model
from serving import Serving, free_port, serve

pytestmark = [pytest.mark.server, pytest.mark.slow]

PROMISED_S = 2.0
"""From the switch of the alias to the first request that is sure to get the version that it names."""


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """Two versions of a task, the second one serving; the archive is away, uploads need none."""
    conf = {
        "var": str(tmp_path / "var"),
        "archive.url": f"http://127.0.0.1:{free_port()}/dicom-web",
        "inference.threads": "1",
        "presegment.automatic": "false",
    }
    made = open_services(load_settings(conf.items(), environ={}))
    made.ledger.upgrade()
    for seed in range(2):
        register_random_model(made, made.task(), tmp_path / f"model-{seed}", seed)
    return made


def served_version(serving: Serving, image: bytes) -> int:
    """The version that a request is answered by."""
    files = {"file": ("image.nii.gz", image)}
    answer = httpx.post(f"{serving.url}/infer/phantom_ct?output=json", files=files, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["model_version"])


def alias_moves(services: Services, version: int, command: "subprocess.Popen[bytes]") -> float:
    """When the alias named that version, by this process's clock."""
    deadline = time.monotonic() + 120
    while (champion := services.registry.champion("phantom_ct")) is None or champion.version != version:
        assert time.monotonic() < deadline
        assert command.poll() in (None, 0)
        time.sleep(0.005)
    return time.monotonic()


def test_two_seconds_after_a_rollback_the_old_version_answers_without_a_restart(
    services: Services, tmp_path: Path
) -> None:
    volume = body()
    path = tmp_path / "image.nii.gz"
    nibabel.Nifti1Image(volume.array.transpose(2, 1, 0), np.diag([2.8, 2.8, 3.0, 1.0])).to_filename(path)
    image = path.read_bytes()
    environment = {**os.environ, **environment_of(services.settings)}
    conf = [("var", str(tmp_path / "var")), ("archive.url", services.settings.archive.url)]
    with serve([*conf, ("inference.threads", "1")], tmp_path, "--no-worker") as serving:
        assert served_version(serving, image) == 2
        rollback = [sys.executable, "-m", "lib.cli", "models", "rollback", "--reason", "worse livers"]
        with subprocess.Popen(rollback, env=environment, stdout=subprocess.PIPE) as command:
            switched = alias_moves(services, 1, command)
            answers = []
            while not answers or answers[-1][0] < PROMISED_S:
                answers.append((time.monotonic() - switched, served_version(serving, image)))
            told, _ = command.communicate(timeout=60)
        assert command.returncode == 0
        assert serving.process.poll() is None
    assert [version for started_s, version in answers if started_s >= PROMISED_S] == [1]
    versions = [version for _, version in answers]
    assert versions == sorted(versions, reverse=True)  # once the old one answers, the new one never does again
    assert told.decode().strip() == "version 1 serves task phantom_ct again"
    [newest, *_] = services.ledger.models.list("phantom_ct")
    assert (newest.version, newest.verdict, newest.state) == (1, "rollback", "done")
    assert newest.reason.endswith(": worse livers")
