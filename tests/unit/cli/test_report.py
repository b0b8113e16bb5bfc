import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lib.cli import report
from lib.core.errors import NotFound
from lib.ledger.ledger import Ledger
from lib.workflows.jobs import RETRAIN
from lib.workflows.report import MorningReport
from lib.workflows.reportfiles import write_report

runner = CliRunner()
REPORT = MorningReport("t-v0003", "t", 3, 2, datetime(2026, 3, 2, tzinfo=UTC), True, "better")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(report.report)
    return made


def test_the_newest_report_is_named_listed_and_printed(app: typer.Typer, tmp_path: Path) -> None:
    environ = {"TRANSUNET_VAR": str(tmp_path)}
    nothing = runner.invoke(app, [], env=environ)
    assert isinstance(nothing.exception, NotFound)
    page = write_report(tmp_path, REPORT)
    assert runner.invoke(app, [], env=environ).stdout.strip() == str(page)
    assert json.loads(runner.invoke(app, ["t-v0003", "--json"], env=environ).stdout)["version"] == 3
    assert "promoted" in runner.invoke(app, ["--list"], env=environ).stdout


def test_a_later_retraining_without_a_report_is_told_of(app: typer.Typer, tmp_path: Path) -> None:
    environ = {"TRANSUNET_VAR": str(tmp_path)}
    page = write_report(tmp_path, REPORT)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    ledger.jobs.add(RETRAIN, "t", {}, "key", 1)
    taken = ledger.jobs.take((RETRAIN,), "anybody", 60.0)
    assert taken is not None
    ledger.jobs.fail(taken, "too few labels [/x]", retry=True)
    newest = runner.invoke(app, [], env=environ)
    assert newest.stdout.strip() == str(page)
    assert f"job {taken.id}) has no report: failed, too few labels" in newest.stderr
    assert "too few labels" not in runner.invoke(app, ["t-v0003"], env=environ).stderr
    listed = runner.invoke(app, ["--list"], env={**environ, "COLUMNS": "160"}).stdout
    assert listed.index("too few labels") < listed.index("t-v0003")
