"""`transunet-label next`: one case under a lease, or the next ones by name."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lib.cli import next_case
from lib.core.errors import InvalidInput, NoChampion
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewSeries

runner = CliRunner()
UIDS = ("1.1", "1.2", "1.3")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(next_case.next_case)
    return made


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A site with three series; nothing here asks the archive."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    for uid in UIDS:
        ledger.series.add(NewSeries(uid, f"9.{uid}", f"patient-{uid}", "pool", "CT", "phantom", instances=3))
        ledger.series.set_ready(uid, (), "frame", None)
    ledger.close()
    return {"TRANSUNET_VAR": str(tmp_path), "TRANSUNET_TASKS": '["phantom_ct"]'}


def test_the_next_cases_are_listed_and_none_is_taken(app: typer.Typer, environ: dict[str, str]) -> None:
    listed = runner.invoke(app, ["--count", "2", "--strategy", "typical"], env=environ)
    lines = [line.split("\t") for line in listed.stdout.splitlines()]
    assert len(lines) == 2
    assert {uid for uid, _ in lines} < set(UIDS)
    taken = runner.invoke(app, ["--strategy", "typical", "--annotator", "anna"], env=environ)
    assert lines[0][0] in taken.stdout
    assert lines[0][1] in taken.stderr
    again = runner.invoke(app, ["--count", "9", "--strategy", "typical"], env=environ)
    assert [line.split("\t")[0] for line in again.stdout.splitlines()] != [uid for uid, _ in lines]
    assert len(again.stdout.splitlines()) == 2


def test_without_a_free_case_the_reason_is_told_and_the_exit_code_says_so(
    app: typer.Typer, environ: dict[str, str]
) -> None:
    for annotator in ("anna", "ben", "cleo"):
        assert runner.invoke(app, ["--annotator", annotator], env=environ).exit_code == 0
    for options in (["--annotator", "dora"], ["--count", "3"]):
        none = runner.invoke(app, options, env=environ)
        assert none.exit_code == next_case.NO_CASE
        assert "of 3 ready series 0 are labelled, 3 in somebody's hands" in none.stderr


def test_an_unknown_strategy_is_refused(app: typer.Typer, environ: dict[str, str]) -> None:
    assert isinstance(runner.invoke(app, ["--strategy", "magic"], env=environ).exception, InvalidInput)


def test_drafts_are_asked_for_together_with_a_number_alone(app: typer.Typer, environ: dict[str, str]) -> None:
    refused = runner.invoke(app, ["--draft"], env=environ)
    assert refused.exit_code == 2
    assert "--draft needs --count" in refused.stderr
    assert isinstance(runner.invoke(app, ["--draft", "--count", "2"], env=environ).exception, NoChampion)
