import base64
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from lib.core.errors import InvalidSettings
from lib.server.config import ServerConfig
from lib.server.security import Security, host_name, issue_token, user_of, user_of_token

Client = Callable[..., Any]
NOW_S = 1_800_000_000.0


def config(**changes: object) -> ServerConfig:
    values = {
        "host": "127.0.0.1",
        "port": 8000,
        "allowed_hosts": (),
        "password": "",
        "threads": 1,
        "max_waiting": 1,
        "max_upload_mb": 1,
        "session_expiry_s": 60.0,
        "public_url": "",
        "viewer": "",
    }
    return ServerConfig(**{**values, **changes})  # type: ignore[arg-type]


async def echo(request: Request) -> JSONResponse:
    size = len(await request.body())
    return JSONResponse({"user": request.state.user, "size": size})


@pytest.fixture
def client(web: Callable[..., Any]) -> Callable[..., Any]:
    def make(**changes: object) -> Any:
        routes = [Route("/x", echo, methods=["GET", "POST"]), Route("/health", echo)]
        return web(Security(Starlette(routes=routes), config(**changes)))

    return make


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:8000", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("PACS.example:80", "pacs.example"),
    ],
)
def test_the_host_name_is_read_without_port_and_brackets(header: str, name: str) -> None:
    assert host_name(header) == name


def test_a_rebound_host_name_is_refused_until_it_is_allowed(client: Client) -> None:
    assert client().get("/x", headers={"Host": "evil.example"}).status_code == 421
    assert client().get("/health", headers={"Host": "10.0.0.7:8000"}).status_code == 200  # as probes ask
    assert client(allowed_hosts=("pacs.example",)).get("/x", headers={"Host": "pacs.example:8000"}).status_code == 200


@pytest.mark.parametrize("url", ["https://Annotate.example", "http://annotate.example:8443/"])
def test_the_address_that_people_use_is_always_answered(url: str, client: Client) -> None:
    assert client(public_url=url).get("/x", headers={"Host": "annotate.example"}).status_code == 200
    assert client(public_url=url).get("/x", headers={"Host": "annotate.example:8443"}).status_code == 200
    assert client(public_url=url).get("/x", headers={"Host": "evil.example"}).status_code == 421
    assert client().get("/x", headers={"Host": ""}).status_code == 421


@pytest.mark.parametrize("url", ["annotate.example", "annotate.example:8443", "ftp://annotate.example", "https://"])
def test_an_address_without_scheme_or_host_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="public_url"):
        config(public_url=url)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_only_our_own_pages_and_programs_change_things(client: Client, headers: dict[str, str], status: int) -> None:
    assert client().post("/x", headers=headers).status_code == status
    assert client().get("/x", headers=headers).status_code == 200


def test_without_a_password_nobody_logs_in(client: Client) -> None:
    assert client().get("/x").json() == {"user": None, "size": 0}


def test_with_a_password_only_the_right_one_passes_and_the_user_is_known(client: Client) -> None:
    guarded = client(password="horse")
    refused = guarded.get("/x")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert guarded.get("/x", headers=basic("anna", "wrong")).status_code == 401
    assert guarded.get("/x", headers=basic("anna", "horse")).json()["user"] == "anna"
    assert guarded.get("/health").status_code == 200


def test_a_token_names_its_user_until_it_expires_and_cannot_be_forged() -> None:
    token = issue_token("änna:b", "horse", NOW_S)
    assert user_of_token(token, "horse", NOW_S + 3600) == "änna:b"
    assert user_of_token(token, "horse", NOW_S + 13 * 3600) is None
    assert user_of_token(token, "other", NOW_S) is None
    claim, _, signature = token.partition(".")
    forged = base64.urlsafe_b64encode(b"9999999999:root").decode()
    assert user_of_token(f"{forged}.{signature}", "horse", NOW_S) is None
    assert user_of_token(claim, "horse", NOW_S) is None


@pytest.mark.parametrize("header", ["", "Basic", "Basic !!!", "Basic aG9yc2U=", "Bearer x", "Digest y", "Bearer ü.ü"])
def test_broken_credentials_are_no_log_in(header: str) -> None:
    assert user_of(header, "horse") is None


def test_an_upload_beyond_the_limit_is_refused_before_it_is_read(client: Client) -> None:
    response = client().post("/x", content=b"0" * (2**20 + 1))
    assert response.status_code == 413
    assert client().post("/x", content=b"0" * 2**20).json()["size"] == 2**20


def test_every_response_keeps_the_browser_from_other_hosts(client: Client) -> None:
    headers = client().get("/x").headers
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
