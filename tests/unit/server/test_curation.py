"""What data teams ask over HTTP: the same answers, and bad input said to be that."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from asking import Web
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewDraft, NewHuman, NewSeries
from lib.server import errors
from lib.server.config import ServerConfig
from lib.server.pool import Pool
from lib.server.routes import ROUTERS, curation
from lib.server.security import Security
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows.services import Services

TASK = "phantom_ct"
FAR = "1.2.9"
ANNA = {"Cookie": "transunet_user=anna"}


def fill(ledger: Ledger) -> None:
    """Three labelled series near each other, one far away, one of the gate."""
    ledger.upgrade()
    places = {"1.2.0": 0.0, "1.2.1": 1.0, "1.2.2": 2.0, FAR: 50.0, "1.2.7": 1.0}
    for uid, at in places.items():
        split = "promotion" if uid == "1.2.7" else "pool"
        ledger.series.add(NewSeries(uid, f"9.{uid}", f"p-{uid}", split, "CT", "phantom", 3, "North", date="20260102"))
        ledger.series.set_ready(uid, (), "frame", None)
        values = {"volume_ml": {"liver": 10 * at}}
        new = NewDraft(uid, TASK, "m", 1)
        ledger.annotations.add_draft(new, None, {"liver": 0.5}, np.array([at, 0.0]), values=values)
        if uid < "1.2.3":
            ledger.annotations.add_human(NewHuman(uid, TASK, "anna", voxels={"liver": 9}), accept=True)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    fill(ledger)
    settings = load_settings([("var", str(tmp_path)), ("tasks", TASK)], environ={})
    nobody = SimpleNamespace()  # archive and registry are not asked
    return Services(settings, {TASK: load_task(TASK)}, nobody, ledger, nobody, b"k" * 32)  # type: ignore[arg-type]


@pytest.fixture
def app(services: Services) -> Iterator[FastAPI]:
    made, pool = FastAPI(), Pool("all", 1, 4)
    errors.install(made)
    made.include_router(curation.router)
    made.state.context = SimpleNamespace(quick=pool, heavy=pool, services=services, settings=services.settings)
    yield made
    pool.close()


@pytest.fixture
def client(app: FastAPI, web: Callable[[ASGIApp], Web]) -> Web:
    return web(app)


def test_the_routes_are_among_those_that_the_server_has() -> None:
    assert curation.router in ROUTERS


def test_strange_series_come_with_the_nearest_labelled_ones_and_the_reason(client: Web) -> None:
    told = client.get("/curation/outliers").json()
    assert (told["version"], told["compared"], told["labelled"], told["outlying"]) == (1, 1, 3, 1)
    (one,) = told["series"]
    assert (one["series"], one["neighbours"][0]["series"]) == (FAR, "1.2.2")
    assert "further than 3 of 3" in one["reasons"][0]
    assert client.get("/curation/outliers?all=true&limit=1").json()["series"][0]["series"] == FAR


def test_series_are_found_by_what_is_asked(client: Web) -> None:
    def found(query: str) -> list[str]:
        answer = client.get(f"/curation/series?{query}")
        assert answer.status_code == 200, answer.text
        return [one["series"] for one in answer.json()["series"]]

    assert found("label=liver&min_volume_ml=15&order=volume") == [FAR, "1.2.2"]
    assert found("state=labelled&site=nor*&since=2026-01-02&until=20260102") == ["1.2.0", "1.2.1", "1.2.2"]
    assert found("split=promotion") == ["1.2.7"]
    assert found("min_uncertainty=0.6") == []
    limited = client.get("/curation/series?limit=2").json()
    assert (limited["total"], len(limited["series"])) == (5, 2)


def test_more_like_this_one(client: Web) -> None:
    told = client.get("/curation/series/1.2.2/like?limit=2").json()
    assert [(one["series"], one["distance"]) for one in told["series"]] == [("1.2.1", 1.0), ("1.2.7", 1.0)]
    assert client.get("/curation/series/1.2.2/like?state=drafted&limit=1").json()["series"][0]["series"] == "1.2.7"


def test_tags_and_cohorts_change_and_the_trail_names_who_did_it(client: Web, services: Services) -> None:
    assert client.post(f"/curation/series/{FAR}/tags", json={"tags": ["metal"]}, headers=ANNA).json() == {"added": 1}
    made = client.post("/curation/cohorts", json={"name": "odd", "description": "strange"}, headers=ANNA)
    assert (made.status_code, made.json()["series"]) == (200, [])
    assert client.post("/curation/cohorts/odd/series", json={"series": [FAR, "1.2.0"]}, headers=ANNA).json() == {
        "added": 2
    }
    assert client.delete("/curation/cohorts/odd/series/1.2.0", headers=ANNA).json() == {"removed": 1}
    told = client.get("/curation").json()
    assert (told["tags"], [(row["name"], row["size"]) for row in told["cohorts"]]) == ({"metal": 1}, [("odd", 1)])
    shown = client.get("/curation/cohorts/odd").json()
    assert (shown["description"], shown["author"], [one["series"] for one in shown["series"]]) == (
        "strange",
        "anna",
        [FAR],
    )
    assert client.get("/curation/series?cohort=odd&tag=metal").json()["total"] == 1
    assert client.delete(f"/curation/series/{FAR}/tags/metal", headers=ANNA).json() == {"removed": 1}
    assert client.delete("/curation/cohorts/odd", headers=ANNA).json() == {"deleted": "odd"}
    actions = [row.action for row in reversed(services.ledger.audit.list()) if row.actor == "anna"]
    assert [action for action in actions if action.startswith(("tag", "cohort"))] == [
        "tag.added", "cohort.created", "cohort.added", "cohort.removed", "tag.removed", "cohort.deleted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/outliers?limit=0", None, 400, "limit must be at least 1"),
        ("GET", "/outliers?version=7", None, 404, "versions that have: 1"),
        ("GET", "/outliers?task=other", None, 404, "served: phantom_ct"),
        ("GET", "/series?order=beauty", None, 400, "order must be one of series, volume"),
        ("GET", "/series?label=wing", None, 400, "label must be one of"),
        ("GET", "/series?since=yesterday", None, 400, "a date must be like 2026-01-31"),
        ("GET", "/series?min_dice=0.9&max_dice=0.1", None, 400, "must not be above the largest"),
        ("GET", "/series?min_dice=high", None, 422, "valid number"),
        ("GET", "/series?cohort=none", None, 404, "there is no cohort 'none'"),
        ("GET", "/series/..%2F..%2Fetc/like", None, 404, ""),
        ("GET", "/series/etc/like", None, 400, "must be a SeriesInstanceUID"),
        ("GET", "/series/1.2.99/like", None, 404, "no series 1.2.99"),
        ("POST", "/series/1.2.9/tags", {"tags": "metal"}, 400, 'must be like {"tags": ["..."]}, got'),
        ("POST", "/series/1.2.9/tags", {"tags": ["Not one"]}, 400, "lower-case letters"),
        ("POST", "/series/1.2.99/tags", {"tags": ["metal"]}, 404, "nothing was changed"),
        ("POST", "/cohorts", {"description": "x"}, 400, 'must be like {"name": "..."}, got'),
        ("POST", "/cohorts/none/series", {"series": ["1.2.9"]}, 404, "there is no cohort"),
        ("POST", "/cohorts/none/series", {"series": [1]}, 400, "must be like"),
        ("DELETE", "/cohorts/none", None, 404, "there is no cohort"),
        ("GET", "/cohorts/none/manifest", None, 404, "there is no cohort"),
    ],
)
def test_bad_input_says_what_was_expected(
    client: Web, method: str, path: str, body: object, status: int, says: str
) -> None:
    answer = client.ask(method, f"/curation{path}", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.text.replace('\\"', '"')


def test_a_cohort_that_is_there_is_not_made_again(client: Web) -> None:
    assert client.post("/curation/cohorts", json={"name": "odd"}).status_code == 200
    assert client.post("/curation/cohorts", json={"name": "odd"}).status_code == 409


def test_a_manifest_of_many_series_is_left_to_the_command_line(
    client: Web, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.ledger.curation.create("gate", "", "anna")
    services.ledger.curation.add("gate", ["1.2.7"], "anna")
    held = client.get("/curation/cohorts/gate/manifest")
    assert (held.status_code, "1 of promotion patients are held out" in held.text) == (400, True)
    monkeypatch.setattr(curation, "MOST_IN_MANIFEST", 0)
    many = client.get("/curation/cohorts/gate/manifest?split=promotion")
    assert (many.status_code, "transunet-label curate export gate FILE --as manifest" in many.text) == (400, True)


def test_curation_wants_the_password_like_every_page(app: FastAPI, web: Callable[[ASGIApp], Web]) -> None:
    config = ServerConfig("127.0.0.1", 8000, (), "secret", 1, 1, 1, 60.0, "", "")
    client = web(Security(app, config))
    assert client.get("/curation").status_code == 401
    assert client.post("/curation/cohorts", json={"name": "odd"}).status_code == 401
    assert client.get("/curation", auth=("anna", "secret")).status_code == 200
    made = client.post("/curation/cohorts", json={"name": "odd"}, auth=("anna", "secret")).json()
    assert made["author"] == "anna"
    foreign = {"Origin": "http://elsewhere.example"}
    assert client.delete("/curation/cohorts/odd", auth=("anna", "secret"), headers=foreign).status_code == 403
