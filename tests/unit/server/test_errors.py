import asyncio
import json

import pytest
from starlette.requests import Request

from lib.core import errors
from lib.server.errors import Busy, NotAllowed, answer_unexpected, error_response, status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput("x"), 400),
        (errors.GeometryMismatch("x"), 422),
        (errors.InvalidSegmentation("x"), 422),
        (errors.NotFound("x"), 404),
        (errors.Conflict("x"), 409),
        (errors.NoChampion("x"), 409),
        (errors.ArchiveUnavailable("x"), 503),
        (errors.LedgerUnavailable("x"), 503),
        (errors.TrainingFailed("x"), 500),
        (NotAllowed("x"), 405),
        (Busy("x"), 503),
        (ValueError("x"), 500),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_a_subclass_that_nobody_named_has_the_status_of_its_ancestor() -> None:
    class Special(errors.NotFound):
        pass

    assert status_of(Special("x")) == 404


def test_the_reply_holds_the_message_and_the_name_of_the_error() -> None:
    response = error_response(errors.NoChampion("train one: transunet-label retrain"))
    assert json.loads(bytes(response.body)) == {
        "detail": "train one: transunet-label retrain",
        "error": "NoChampion",
    }


def test_what_may_pass_by_itself_says_when_to_ask_again() -> None:
    assert error_response(errors.ArchiveUnavailable("away")).headers["retry-after"] == "5"
    assert "retry-after" not in error_response(errors.NotFound("no")).headers


def test_an_unexpected_error_leaves_no_trace_of_the_code(caplog: pytest.LogCaptureFixture) -> None:
    request = Request({"type": "http", "method": "GET", "path": "/x", "headers": [], "query_string": b""})
    response = asyncio.run(answer_unexpected(request, RuntimeError("secret /var/lib/path")))
    body = json.loads(bytes(response.body))
    assert response.status_code == 500
    assert "secret" not in body["detail"]
    incident = body["detail"].split()[2].rstrip(";")
    assert incident in caplog.text
