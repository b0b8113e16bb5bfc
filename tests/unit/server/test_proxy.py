from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.core.errors import InvalidInput, LabelError
from lib.dicom.config import ArchiveConfig
from lib.server.errors import NotAllowed, error_response
from lib.server.proxy import check_path, forward, open_client

CONFIG = ArchiveConfig("http://archive:8042/dicom-web", "server", "secret", 5.0)
Ask = Callable[..., httpx.Response]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "studies"),
        ("GET", "studies/1.2.3/series/4.5/instances/6/frames/1,2,3"),
        ("GET", "studies/1.2/series/3.4/metadata"),
        ("GET", "series"),
        ("HEAD", "instances"),
        ("POST", "studies"),
        ("POST", "studies/1.2.3"),
    ],
)
def test_search_retrieval_and_storage_pass(method: str, path: str) -> None:
    check_path(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "studies/1.2.3"),
        ("PUT", "studies"),
        ("POST", "studies/1.2/series"),
        ("POST", "servers/x/stow"),
        ("GET", "servers"),
        ("GET", ""),
        ("GET", "info"),
        ("GET", "studies/%2e%2e/x"),
    ],
)
def test_everything_else_is_refused(method: str, path: str) -> None:
    with pytest.raises(NotAllowed):
        check_path(method, path)


@pytest.mark.parametrize("path", ["studies/../servers", "../instances/1/file"])
def test_no_path_climbs_out(path: str) -> None:
    with pytest.raises(InvalidInput):
        check_path("GET", path)


class Archive:
    """A small DICOMweb server: answers as told and remembers what it was asked."""

    def __init__(self, status: int = 200, text: str = "[]") -> None:
        self.status, self.text = status, text
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.asked.append((request.method, str(request.url), dict(request.headers), await request.body()))
        headers = {"Set-Cookie": "a=b", "Server": "Orthanc", "WWW-Authenticate": "Basic"}
        await Response(self.text, self.status, headers, "application/dicom+json")(scope, receive, send)


class Away:
    """An archive that nobody reaches."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise httpx.ConnectError("connection refused")


@pytest.fixture
def ask(web: Callable[[ASGIApp], Any]) -> Callable[..., httpx.Response]:
    """What a viewer sees of a request through the proxy."""

    def through(upstream: ASGIApp, method: str, url: str, **options: object) -> httpx.Response:
        async def route(request: Request) -> Response:
            client = open_client(CONFIG)
            client._transport = httpx.ASGITransport(upstream)
            try:
                return await forward(client, request, request.path_params["path"])
            except (LabelError, NotAllowed) as error:
                return error_response(error)

        methods = ["GET", "POST", "DELETE"]
        app = Starlette(routes=[Route("/dicom-web/{path:path}", route, methods=methods)])
        found: httpx.Response = web(app).ask(method, url, **options)
        return found

    return through


def test_the_archive_sees_the_servers_credentials_and_none_of_the_viewers(ask: Ask) -> None:
    archive = Archive()
    headers = {"Authorization": "Bearer mine", "Cookie": "transunet_user=x", "Accept": "application/dicom+json"}
    answer = ask(archive, "GET", "/dicom-web/studies?PatientID=a%26b&includefield=all", headers=headers)
    assert (answer.status_code, answer.text) == (200, "[]")
    [(method, url, seen, _)] = archive.asked
    assert (method, url) == ("GET", "http://archive:8042/dicom-web/studies?PatientID=a%26b&includefield=all")
    assert seen["authorization"].startswith("Basic ")
    assert "cookie" not in seen
    assert seen["accept"] == "application/dicom+json"
    assert seen["forwarded"] == "host=127.0.0.1:8000;proto=http"
    assert answer.headers["content-type"] == "application/dicom+json"
    assert not {"set-cookie", "server", "www-authenticate"} & set(answer.headers)


def test_a_stored_file_arrives_byte_by_byte(ask: Ask) -> None:
    archive = Archive()
    body = bytes(range(256)) * 5000
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
    assert ask(archive, "POST", "/dicom-web/studies", content=body, headers=headers).status_code == 200
    [(_, _, seen, got)] = archive.asked
    assert got == body
    assert seen["content-type"] == headers["Content-Type"]


def test_errors_of_the_archive_pass_as_they_are(ask: Ask) -> None:
    answer = ask(Archive(404, "unknown"), "GET", "/dicom-web/studies/1.2/metadata")
    assert (answer.status_code, answer.text) == (404, "unknown")


def test_refused_credentials_are_our_problem_not_the_annotators(ask: Ask) -> None:
    answer = ask(Archive(401), "GET", "/dicom-web/studies")
    assert answer.status_code == 503
    assert "TRANSUNET_ARCHIVE__PASSWORD" in answer.json()["detail"]
    assert "www-authenticate" not in answer.headers


def test_an_archive_that_is_away_is_said_to_be(ask: Ask) -> None:
    answer = ask(Away(), "GET", "/dicom-web/studies")
    assert answer.status_code == 503
    assert answer.json()["error"] == "ArchiveUnavailable"
    assert "http://archive:8042/dicom-web" in answer.json()["detail"]


def test_a_deletion_never_reaches_the_archive(ask: Ask) -> None:
    archive = Archive()
    assert ask(archive, "DELETE", "/dicom-web/studies/1.2.3").status_code == 405
    assert archive.asked == []
