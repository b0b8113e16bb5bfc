import json
import socket
import stat
from pathlib import Path

import pytest

from lib.cli import demo_site
from lib.cli.demo_site import Account, choose_port, demo_options, open_account
from lib.core.errors import Conflict
from lib.settings import load_settings


def test_the_password_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    first, second = open_account(tmp_path), open_account(tmp_path)
    assert first == second
    assert len(first.password) >= 32
    assert stat.S_IMODE((tmp_path / "account.json").stat().st_mode) == 0o600
    assert first.password not in repr(first)
    assert open_account(tmp_path / "other").password != first.password


def test_a_port_that_somebody_took_meanwhile_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_site, "PORT_WAIT_S", 0.1)
    first = open_account(tmp_path)
    with socket.create_server(("127.0.0.1", first.port)):
        second = open_account(tmp_path)
    assert second.port != first.port
    assert second.password == first.password
    assert json.loads((tmp_path / "account.json").read_text())["port"] == second.port


def test_a_wanted_port_that_is_taken_is_an_error_the_usual_one_only_a_reason_to_take_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo_site, "PORT_WAIT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {taken} is taken"):
            choose_port(taken, 8000)
        assert choose_port(0, taken) != taken
    assert choose_port(taken, 8000) == taken
    assert choose_port(0, taken) == taken


def test_the_demo_sets_its_options_over_those_of_the_installation() -> None:
    options = demo_options(Account(18042, "secret"), "hippocampus_mr", 18000)
    settings = load_settings(options.items(), environ={"TRANSUNET_REVIEW__MODE": "required"})
    assert settings.archive.url == "http://127.0.0.1:18042/dicom-web"
    assert (settings.archive.username, settings.archive.password) == ("demo", "secret")
    assert settings.tasks == ("hippocampus_mr",)
    assert settings.server.port == 18000
    assert settings.review.mode == "auto"
