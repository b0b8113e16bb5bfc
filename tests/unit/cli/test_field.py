import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lib.cli import field
from lib.core.errors import Conflict

runner = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(field.field)
    return made


def test_an_installation_without_corrections_says_so_in_words_and_as_json(app: typer.Typer, tmp_path: Path) -> None:
    environ = {"TRANSUNET_VAR": str(tmp_path), "TRANSUNET_TASKS": "phantom_ct"}
    told = runner.invoke(app, [], env=environ)
    assert told.exit_code == 0
    assert "task phantom_ct: no corrected draft of the random lane yet, 0 cases of others" in told.stdout
    values = json.loads(runner.invoke(app, ["--json"], env=environ).stdout)
    assert (values["task"], values["alarm"], values["random"]["curve"]) == ("phantom_ct", False, [])
    assert values["reference"] == "no reference yet: 0 of 20 cases of all versions"


def test_without_an_alarm_there_is_nothing_to_acknowledge(app: typer.Typer, tmp_path: Path) -> None:
    environ = {"TRANSUNET_VAR": str(tmp_path), "TRANSUNET_TASKS": "phantom_ct"}
    refused = runner.invoke(app, ["--acknowledge"], env=environ)
    assert isinstance(refused.exception, Conflict)
    assert "task phantom_ct has no alarm to acknowledge" in str(refused.exception)
