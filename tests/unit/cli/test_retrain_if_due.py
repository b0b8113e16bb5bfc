"""`retrain --if-due`, as a timer starts it: no worker runs, and nobody looks at the output until morning."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from lib.cli import retrain, retrain_follow
from lib.settings import load_settings
from lib.workflows.services import Services, open_services

if TYPE_CHECKING:
    from lib.ledger.rows import JobRow

TOO_FEW = "failed: task phantom_ct needs at least 2 accepted human labels"
Command = Callable[..., Result]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"TRANSUNET_VAR": str(tmp_path / "var"), "TRANSUNET_TASKS": "phantom_ct,hippocampus_mr"}


@pytest.fixture
def rooms(environ: dict[str, str]) -> Services:
    services = open_services(load_settings(environ=environ))
    services.ledger.upgrade()
    return services


@pytest.fixture
def command(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, which waits for no worker."""
    monkeypatch.setattr(retrain_follow, "NOBODY_TAKES_IT_S", 0.0)
    monkeypatch.setattr(retrain_follow, "POLL_S", 0.05)
    app = typer.Typer()
    app.command()(retrain.retrain)
    return lambda *arguments: CliRunner().invoke(app, ["--if-due", *arguments], env=environ)


def taken(services: Services, lease_s: float) -> "JobRow":
    """A training of phantom_ct that is in the hands of another process."""
    services.ledger.jobs.add("retrain", "phantom_ct", {"params": {}}, "retrain:phantom_ct")
    job = services.ledger.jobs.take(("retrain",), "other:1", lease_s)
    assert job is not None
    return job


@contextmanager
def beating(services: Services, job: "JobRow") -> Iterator[None]:
    """The other process lives."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            services.ledger.jobs.beat(job)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_training_that_waits_for_a_worker_is_done_here(rooms: Services, command: Command) -> None:
    rooms.ledger.jobs.add("retrain", "phantom_ct", {"params": {}}, "retrain:phantom_ct")
    result = command("--task", "phantom_ct")
    assert "task phantom_ct: job 1 is open and goes on" in result.output
    assert f"job 1 {TOO_FEW}" in str(result.exception)
    assert rooms.ledger.jobs.get(1).state == "failed"


def test_a_training_whose_process_died_goes_on_here_as_soon_as_that_is_certain(
    rooms: Services, command: Command
) -> None:
    taken(rooms, lease_s=1.0)  # as after a power cut: the lease has not even run out
    result = command("--task", "phantom_ct")
    assert f"job 1 {TOO_FEW}" in str(result.exception)
    row = rooms.ledger.jobs.get(1)
    assert (row.state, row.attempts) == ("failed", 2)


def test_a_training_that_somebody_works_on_is_said_so_and_left_to_him(rooms: Services, command: Command) -> None:
    job = taken(rooms, lease_s=60.0)
    with beating(rooms, job):
        result = command("--task", "phantom_ct")
    assert (result.exit_code, result.stdout) == (
        0,
        "task phantom_ct: job 1 is running already, worked on by other:1\n",
    )
    row = rooms.ledger.jobs.get(1)
    assert (row.state, row.attempts, row.worker) == ("running", 1, "other:1")


def test_without_a_task_all_served_ones_are_looked_at_and_one_that_fails_stops_no_other(
    rooms: Services, command: Command
) -> None:
    nothing = command()
    assert nothing.exit_code == 0
    assert nothing.stdout.splitlines() == [
        "task phantom_ct: not due: 0 accepted labels of the pool, a training needs 2",
        "task hippocampus_mr: not due: 0 accepted labels of the pool, a training needs 2",
    ]
    rooms.ledger.jobs.add("retrain", "phantom_ct", {"params": {}}, "retrain:phantom_ct")
    failed = command()
    assert f"task phantom_ct: job 1 {TOO_FEW}" in failed.stderr
    assert "task hippocampus_mr: not due" in failed.stdout
    assert str(failed.exception).startswith("the training of phantom_ct did not end")


def test_who_is_silent_for_longer_than_he_may_holds_nothing(rooms: Services) -> None:
    job = taken(rooms, lease_s=0.2)
    assert rooms.ledger.jobs.held("retrain") == {job.id}
    assert rooms.ledger.jobs.held("draft") == frozenset()
    time.sleep(0.25)
    assert rooms.ledger.jobs.held("retrain") == frozenset()
