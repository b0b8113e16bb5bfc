"""kill -9 at twenty random moments of one retraining: what serves goes on serving, and the end is that of no kill."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from killed_retrain import LEASE_S, NAMES, services_of
from labelled import TASK, label_patients, register_champion
from lib.inference.model import read_manifest, read_state
from lib.ledger.rows import JobRow
from lib.workflows.models import ChampionCache
from lib.workflows.plan import job_folder
from lib.workflows.retrain import request_retrain
from lib.workflows.services import Services
from rooms import ball

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TESTS = Path(__file__).parents[1]
KILLS: Mapping[str, int] = {
    "collecting": 3,
    "fitting": 6,
    "measuring": 1,
    "saving": 1,
    "noting the run": 1,
    "registering": 2,
    "judging": 2,
    "promoting": 1,
    "switching": 1,
    "reporting": 1,
    "finishing": 1,
}
"""How many of the twenty lie in each phase."""

Answer = dict[str, Any]
Do = Callable[..., list[Answer]]


@pytest.fixture
def do(tmp_path: Path) -> Iterator[Do]:
    """Starts a process that works on the training of a state folder, and gives what it said and how it ended."""
    command = [sys.executable, str(TESTS / "killed_retrain.py"), str(tmp_path / "task.yaml")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    stdin, stdout = server.stdin, server.stdout

    def act(var: Path, **request: object) -> list[Answer]:
        print(json.dumps({"var": str(var), **request}), file=stdin, flush=True)
        answers = [json.loads(stdout.readline())]
        while "status" not in answers[-1]:
            answers.append(json.loads(stdout.readline()))
        return [answer for answer in answers if "ready" not in answer]

    yield act
    server.kill()
    server.communicate()


@pytest.fixture
def var(tmp_path: Path) -> Path:
    """A state folder: labels of nine patients, a champion that has learned from two of them, a training that waits."""
    (tmp_path / "task.yaml").write_text(TASK)
    var = tmp_path / "var"
    services = services_of(var, tmp_path / "task.yaml")
    services.ledger.upgrade()
    ids = label_patients(services)
    register_champion(services, tmp_path / "champion", tuple(ids[:2]))
    request_retrain(services, services.task(), {}, "test")
    services.ledger.close()
    return var


def copied(var: Path, target: Path) -> Path:
    """The same state in another folder."""
    shutil.copytree(var, target, ignore=shutil.ignore_patterns("*.db*"))
    for name in ("ledger.db", "mlflow.db"):
        with sqlite3.connect(var / name) as source, sqlite3.connect(target / name) as own:
            source.backup(own)  # a copy of the file would miss its write-ahead log
    return target


def moments(counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """(phase, calls after its beginning), by the calls that each phase makes where nobody is killed."""
    drawn = random.Random(4711)
    for phase in NAMES:
        yield from ((phase, drawn.randrange(counts[phase])) for _ in range(KILLS.get(phase, 0)))


def require_whole(services: Services, champions: ChampionCache, answers: dict[int, np.ndarray]) -> int:
    """What serves answers, as it did before; each version is whole. The version that serves."""
    task = services.task()
    predictor, version = champions.predictor(task.name)
    found = predictor.predict(ball(99)[0]).mask.array
    np.testing.assert_array_equal(found, answers.setdefault(version, found))
    versions = services.registry.list(task.name)
    assert [one.version for one in versions] in ([1], [2, 1])
    for one in versions:
        assert read_manifest(one.folder).metrics == one.metrics
        assert read_state(one.folder)
    return version


def require_true(services: Services, job: JobRow, attempts: int) -> None:
    """The job is in the hands of the dead process until its lease ends, or done and its version serves."""
    row = services.ledger.jobs.get(job.id)
    if row.state == "done":
        champion = services.registry.champion(row.task)
        assert champion is not None
        assert (row.result["version"], row.result["promoted"]) == (champion.version, True)
        return
    assert (row.state, row.attempts) == ("running", attempts)
    assert row.worker is not None
    assert services.ledger.jobs.take(("retrain",), "another", LEASE_S) is None


def test_twenty_kills_change_nothing_but_the_time(do: Do, var: Path, tmp_path: Path) -> None:
    task_file = tmp_path / "task.yaml"
    straight = services_of(copied(var, tmp_path / "straight"), task_file)
    (end, status) = do(straight.settings.var, ahead_s=0.0)
    assert (status["status"], end["state"], end["error"]) == (0, "done", "")
    assert min(end["counts"].values()) > 0

    ahead_s, served, answers = 0.0, [], dict[int, np.ndarray]()
    services = services_of(var, task_file, lambda: ahead_s)
    champions = ChampionCache(services, check_every_s=0.0)
    (job,) = services.ledger.jobs.list(kind="retrain")
    for number, (phase, calls) in enumerate(moments(end["counts"]), start=1):
        killed = do(var, phase=phase, calls=calls, ahead_s=ahead_s, imported=end["imported"])
        assert killed == [{"status": -signal.SIGKILL}], (phase, calls)
        served.append(require_whole(services, champions, answers))
        require_true(services, job, number)
        ahead_s += LEASE_S + 1
    assert len(served) == 20
    assert served == sorted(served)  # the alias moved once
    if services.ledger.jobs.get(job.id).state == "running":  # the last kill may come after the job's end
        (last, status) = do(var, ahead_s=ahead_s)
        assert (status["status"], last["state"], last["error"]) == (0, "done", "")
    assert require_whole(services, champions, answers) == 2
    require_same_end(services, straight, job)


def require_same_end(services: Services, straight: Services, job: JobRow) -> None:
    """Version, weights, verdict and result are those of the run that nobody killed, and nothing else is left."""
    rows = [rooms.ledger.jobs.get(job.id).result for rooms in (services, straight)]
    for name in ("version", "promoted", "reason", "metrics", "training", "calibration", "start", "notes"):
        assert rows[0][name] == rows[1][name], name
    assert (rows[0]["version"], rows[0]["promoted"], rows[0]["start"]) == (2, True, 1)
    for rooms in (services, straight):
        (verdict, first) = rooms.ledger.models.list("balls")
        assert (verdict.version, verdict.verdict, verdict.state, first.version) == (2, "promoted", "done", 1)
        versions = rooms.registry.list("balls")
        folders = {path.name for path in (rooms.settings.var / "models" / "balls").iterdir()}
        assert folders == {version.folder.name for version in versions}
        assert versions[0].is_champion
        assert not job_folder(rooms, job.id).exists()
    weights = [read_manifest(rooms.registry.path("balls", 2)).sha256 for rooms in (services, straight)]
    assert weights[0] == weights[1]
