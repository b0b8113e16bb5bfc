from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from asking import Web
from lib.ledger.ledger import Ledger
from lib.server import errors
from lib.server.config import ServerConfig
from lib.server.pool import Pool
from lib.server.routes import reports
from lib.server.security import Security
from lib.workflows.jobs import RETRAIN
from lib.workflows.report import MorningReport
from lib.workflows.reportfiles import write_report

REPORT = MorningReport("t-v0003", "t", 3, 2, datetime(2026, 3, 2, tzinfo=UTC), False, "not <better>")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    made, pool = FastAPI(), Pool("quick", 1, 4)
    errors.install(made)
    made.include_router(reports.router)
    settings = SimpleNamespace(var=tmp_path)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.upgrade()
    services = SimpleNamespace(settings=settings, ledger=ledger)
    made.state.context = SimpleNamespace(quick=pool, settings=settings, services=services)
    yield made
    pool.close()


def test_reports_are_listed_and_read_as_page_and_as_values(
    app: FastAPI, web: Callable[[ASGIApp], Web], tmp_path: Path
) -> None:
    client = web(app)
    assert "No retraining was asked for yet" in client.get("/reports").text
    write_report(tmp_path, REPORT)
    assert 'href="/reports/t-v0003"' in client.get("/reports").text
    page = client.get("/reports/t-v0003")
    assert page.headers["content-type"].startswith("text/html")
    assert "not &lt;better&gt;" in page.text
    assert client.get("/reports/t-v0003.json").json()["reason"] == "not <better>"
    missing = client.get("/reports/t-v0004")
    assert (missing.status_code, missing.json()["error"]) == (404, "NotFound")
    assert client.get("/reports/..%2Fledger").status_code in (400, 404)


def test_a_retraining_that_failed_is_in_the_list_with_its_reason(
    app: FastAPI, web: Callable[[ASGIApp], Web], tmp_path: Path
) -> None:
    write_report(tmp_path, REPORT)
    jobs = app.state.context.services.ledger.jobs
    jobs.add(RETRAIN, "t", {}, "key", 1)
    client = web(app)
    assert "waiting" in client.get("/reports").text
    taken = jobs.take((RETRAIN,), "anybody", 60.0)
    assert taken is not None
    jobs.fail(taken, "loss <NaN> at step 7", retry=True)
    page = client.get("/reports").text
    assert page.index("loss &lt;NaN&gt; at step 7") < page.index("t-v0003")
    assert f"none, job {taken.id}" in page
    assert "waiting" not in page


def test_reports_want_the_password_like_every_page(app: FastAPI, web: Callable[[ASGIApp], Web]) -> None:
    config = ServerConfig("127.0.0.1", 8000, (), "secret", 1, 1, 1, 60.0, "", "")
    client = web(Security(app, config))
    assert client.get("/reports").status_code == 401
    assert client.get("/reports", auth=("anna", "secret")).status_code == 200
