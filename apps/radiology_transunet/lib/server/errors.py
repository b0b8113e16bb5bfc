"""The one place where an error becomes an HTTP status; a stack trace never leaves the server."""

import logging
import uuid
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from lib.core import errors

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5


class Busy(Exception):
    """All threads work and the waiting line is full."""


class NotAllowed(Exception):
    """A request that this server never serves, with what to do instead."""


STATUS: Mapping[type[Exception], int] = {
    errors.LabelError: 500,
    errors.InvalidInput: 400,
    errors.GeometryMismatch: 422,
    errors.InvalidVolume: 422,
    errors.InvalidMask: 422,
    errors.InvalidSegmentation: 422,
    errors.InconsistentSeries: 422,
    errors.UnreadablePixels: 422,
    errors.InvalidTask: 500,
    errors.InvalidSettings: 500,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NoChampion: 409,
    errors.ManifestMismatch: 503,
    errors.ArchiveUnavailable: 503,
    errors.LedgerUnavailable: 503,
    NotAllowed: 405,
    Busy: 503,
}
"""HTTP status by error class; a class that is not named has its nearest ancestor's."""


def status_of(error: Exception) -> int:
    """HTTP status of an error, 500 for one that nobody raised on purpose."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_response(error: Exception) -> JSONResponse:
    """What a client sees of an error: status, class name and message in the shape of FastAPI's own errors."""
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return JSONResponse({"detail": str(error), "error": type(error).__name__}, status, headers)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """Reply to an error that was raised on purpose."""
    response = error_response(error)
    if response.status_code >= 500:
        logger.warning("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    return response


async def answer_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Reply to an error that nobody expected: an incident number, the trace goes to the log alone."""
    incident = uuid.uuid4().hex[:8]
    logger.error("incident %s: %s %s", incident, request.method, request.url.path, exc_info=error)
    return JSONResponse({"detail": f"internal error {incident}; the server's log says more", "error": "Internal"}, 500)


def install(app: FastAPI) -> None:
    """Let the application answer errors this way."""
    for kind in (errors.LabelError, Busy, NotAllowed):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Exception, answer_unexpected)
