"""The archive's DICOMweb under /dicom-web, streamed both ways with the server's own credentials.

A browser may search, retrieve and store studies there, nothing else: no deletion, and no other route of the archive
(its plug-in can also send studies to remote servers). Neither side's cookies or credentials pass.
"""

import re
from collections.abc import AsyncIterator, Mapping

import httpx
from fastapi import Request
from fastapi.responses import StreamingResponse

from lib.core.errors import ArchiveUnavailable, InvalidInput
from lib.dicom.config import ArchiveConfig
from lib.server.errors import NotAllowed

CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32
READABLE = re.compile(r"(studies|series|instances)(/[\w.,\-]+)*/?")
STORABLE = re.compile(r"studies(/[0-9.]+)?/?")
REQUEST_HEADERS = ("accept", "accept-language", "content-type", "content-length", "if-none-match", "range")
RESPONSE_HEADERS = ("content-type", "content-length", "content-encoding", "content-range", "etag", "warning")
REFUSALS = {401, 403}


def open_client(config: ArchiveConfig) -> httpx.AsyncClient:
    """A client that speaks to the archive alone: no proxy of the environment, no redirects."""
    auth = httpx.BasicAuth(config.username, config.password) if config.username else None
    return httpx.AsyncClient(
        base_url=config.url.rstrip("/") + "/",
        auth=auth,
        timeout=httpx.Timeout(config.timeout_s, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
        trust_env=False,
    )


def check_path(method: str, path: str) -> None:
    """Refuse what is neither a search, a retrieval nor a storage of studies.

    Raises:
        NotAllowed: another method, or a path that this method may not use.
        InvalidInput: a path that climbs out of its folder.
    """
    if ".." in path.split("/"):
        raise InvalidInput(f"a DICOMweb path has no '..', got {path[:200]!r}")
    if method in ("GET", "HEAD") and READABLE.fullmatch(path):
        return
    if method == "POST" and STORABLE.fullmatch(path):
        return
    raise NotAllowed(f"/dicom-web searches, retrieves (GET) and stores (POST studies); refused: {method} {path[:200]}")


async def forward(client: httpx.AsyncClient, request: Request, path: str) -> StreamingResponse:
    """The archive's answer to a request of the viewer, streamed.

    Raises:
        NotAllowed: not a request that the viewer needs.
        ArchiveUnavailable: the archive does not answer, or refuses the server's credentials.
    """
    check_path(request.method, path)
    body = request.stream() if request.method == "POST" else None
    outgoing = client.build_request(
        request.method,
        path,
        params=httpx.QueryParams(request.url.query),
        headers=request_headers(request),
        content=body,
    )
    try:
        answer = await client.send(outgoing, stream=True)
    except httpx.HTTPError as error:
        raise ArchiveUnavailable(f"the archive at {client.base_url} does not answer: {_reason(error)}") from error
    if answer.status_code in REFUSALS:
        await answer.aclose()
        raise ArchiveUnavailable(
            f"the archive at {client.base_url} refuses the server's credentials ({answer.status_code}); "
            "set TRANSUNET_ARCHIVE__USERNAME and TRANSUNET_ARCHIVE__PASSWORD"
        )
    return StreamingResponse(_chunks(answer), answer.status_code, _kept(answer.headers, RESPONSE_HEADERS))


def request_headers(request: Request) -> dict[str, str]:
    """What the archive may know of a request; it builds links from `Forwarded`."""
    headers = _kept(request.headers, REQUEST_HEADERS)
    if request.method != "POST":
        headers.pop("content-length", None)
    headers["accept-encoding"] = "identity"
    headers["forwarded"] = f"host={request.headers.get('host', '')};proto={request.url.scheme}"
    return headers


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Raw bytes of an answer; closes it also when the reader goes away."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


def _kept(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
