import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lib.cli import models, retrain

runner = CliRunner()


def build_app() -> typer.Typer:
    """The two commands of this file's subject alone."""
    app = typer.Typer()
    app.command()(retrain.retrain)
    app.add_typer(models.app, name="models")
    return app


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"TRANSUNET_VAR": str(tmp_path / "var"), "TRANSUNET_TASKS": "phantom_ct"}


@pytest.mark.parametrize("command", [["retrain"], ["models"], ["models", "list"], ["models", "promote"]])
def test_help_shows_an_example_or_the_commands(command: list[str]) -> None:
    result = runner.invoke(build_app(), [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: transunet-label" in result.output or "rollback" in result.output


def test_no_wait_prints_the_job_and_cancel_ends_it(environ: dict[str, str]) -> None:
    first = runner.invoke(build_app(), ["retrain", "--no-wait", "--steps", "5"], env=environ)
    assert (first.exit_code, first.stdout.strip()) == (0, "1")
    again = runner.invoke(build_app(), ["retrain", "--no-wait"], env=environ)
    assert again.stdout.strip() == "1"
    assert runner.invoke(build_app(), ["retrain", "--cancel"], env=environ).stdout == "job 1 is cancelled\n"
    nothing = runner.invoke(build_app(), ["retrain", "--cancel"], env=environ)
    assert nothing.stdout == "task phantom_ct has no training to cancel\n"


def command(*arguments: str, **environ: str) -> "subprocess.Popen[str]":
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", "lib.cli", *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_without_a_worker_the_command_trains_itself_and_a_failure_ends_with_1(environ: dict[str, str]) -> None:
    with command("retrain", **environ) as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert "job 1 failed: task phantom_ct needs at least 2 accepted human labels" in error


def test_versions_are_listed_promoted_and_rolled_back(environ: dict[str, str], tmp_path: Path) -> None:
    from lib.inference.model import Manifest, build_network, save_model
    from lib.settings import load_settings
    from lib.workflows.services import open_services

    services = open_services(load_settings(environ={**environ}))
    services.ledger.upgrade()
    task = services.task()
    save_model(tmp_path / "m", Manifest.describe(task, 0), build_network(task.network, task.schema).state_dict())
    for dice in (0.5, 0.75):
        services.registry.register(task.name, tmp_path / "m", {"mean_dice": dice})
    app = build_app()
    for version in ("1", "2"):
        promoted = runner.invoke(app, ["models", "promote", version, "--reason", "try it"], env=environ)
        assert promoted.stdout == f"version {version} serves task phantom_ct\n", promoted.exception
        assert "transunet-label models calibrate --task phantom_ct" in promoted.stderr  # it has no estimated Dice
    assert runner.invoke(app, ["models", "rollback"], env=environ).stdout == "version 1 serves task phantom_ct again\n"
    rows = json.loads(runner.invoke(app, ["models", "list", "--json"], env=environ).stdout)
    assert [(row["version"], row["champion"], row["metrics"]["mean_dice"]) for row in rows] == [
        (2, False, 0.75),
        (1, True, 0.5),
    ]
    assert rows[0]["reason"].endswith(": try it")
    assert rows[1]["verdict"] == "rollback"
    assert "champion" in runner.invoke(app, ["models", "list"], env=environ).stdout
    assert type(runner.invoke(app, ["models", "rollback"], env=environ).exception).__name__ == "Conflict"
    refused = runner.invoke(app, ["models", "calibrate"], env=environ).exception
    assert "at least one calibration case with a predicted label, got none in 0 cases" in str(refused)


@pytest.mark.slow
def test_a_child_of_a_worker_hands_its_job_back_when_the_worker_dies(environ: dict[str, str]) -> None:
    """A process takes the job as a worker would, starts the child and is killed; the child ends by itself."""
    from lib.settings import load_settings
    from lib.workflows.services import open_services

    services = open_services(load_settings(environ={**environ}))
    services.ledger.upgrade()
    job_id = services.ledger.jobs.add("retrain", "phantom_ct", {}, "retrain:phantom_ct")
    job = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert job is not None
    source = f"""
import subprocess, sys, time
import lib.workflows.retrain_job as module
code = '''
import sys
import lib.workflows.retrain_job as module
from lib.workflows.retrain import Stopped
def wait(services, job, report, stop):
    print("training", flush=True)
    stop.wait(60)
    raise Stopped("stopped while training")
module.run_retrain = wait
sys.argv = ["transunet-label", "retrain", "--job", "{job_id}"]
from lib.cli.main import main
main()
'''
child = subprocess.Popen([sys.executable, "-c", code])
print(child.pid, flush=True)
time.sleep(60)
"""
    paths = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": paths, **environ},
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        int(worker.stdout.readline())
        assert worker.stdout.readline() == "training\n"
        worker.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while services.ledger.jobs.get(job_id).state == "running" and time.monotonic() < end:
        time.sleep(0.1)
    row = services.ledger.jobs.get(job_id)
    assert row.state == "queued"
    assert "the worker that started it has ended" in row.error


def test_if_due_says_why_nothing_is_due_and_ends_with_0(environ: dict[str, str]) -> None:
    result = runner.invoke(build_app(), ["retrain", "--if-due"], env=environ)
    assert result.exit_code == 0
    assert result.stdout == "task phantom_ct: not due: 0 accepted labels of the pool, a training needs 2\n"


def test_the_differences_that_the_gate_weighed_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from lib.cli.retrain import _print_verdict

    label = {"name": "liver", "difference": 0.012, "lower": -0.004, "floor": -0.02, "patients": 9}
    unknown = {"name": "spleen", "difference": None, "lower": None, "floor": -0.02, "patients": 0}
    _print_verdict({"labels": [label, unknown], "mean": None, "champion": 3})
    _print_verdict({})
    assert capsys.readouterr().out == (
        "  liver: +0.0120 against version 3, at least -0.0040, needed above -0.0200, 9 promotion patients\n"
    )
