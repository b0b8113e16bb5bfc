"""Who may talk to the server: Host and Origin checks, the shared password, limits and response headers.

Threats it answers: a web page elsewhere that makes the annotator's browser call this server (Origin, Sec-Fetch-Site
and, for DNS rebinding, Host), other people on the network (password; `serve` refuses to leave loopback without one),
and uploads that fill the disk. It is no user management: the user name is recorded, not proven.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.server.config import ServerConfig

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/health", "/auth", "/auth/", "/auth/token"})
PROBED_PATHS = frozenset({"/health"})
"""Answered for any Host: probes of load balancers and Kubernetes ask by address, and the answer is known to all."""
TOKEN_LIFETIME_S = 12 * 3600
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # OHIF compiles shaders, WASM and templates
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
RESPONSE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Refused(Exception):
    """A request that must not reach a route."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """What the client sees."""
        return JSONResponse({"detail": str(self), "error": "Refused"}, self.status, self.headers)


class Security:
    """ASGI middleware; the outermost one.

    Args:
        app: what it protects.
        config: allowed hosts, password and upload limit.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._config = config
        own = {config.host, config.public_host} - {""}
        self._hosts = LOOPBACK | {host.casefold() for host in (*own, *config.allowed_hosts)}
        self._max_bytes = config.max_upload_mb * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except Refused as refusal:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, _limited(receive, self._max_bytes), _with_headers(send))

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise Refused for what must not pass; puts the user's name into the scope."""
        if scope["path"] not in PROBED_PATHS:
            check_host(headers.get("host", ""), self._hosts)
        if scope["method"] not in SAFE_METHODS:
            check_origin(headers)
        check_length(headers.get("content-length"), self._max_bytes)
        user = None
        if self._config.password:
            user = user_of(headers.get("authorization", ""), self._config.password)
            if user is None and scope["path"] not in OPEN_PATHS:
                raise Refused(401, "log in: any user name, the server's password", _CHALLENGE)
        scope.setdefault("state", {})["user"] = user


_CHALLENGE = {"WWW-Authenticate": 'Basic realm="radiology_transunet", charset="UTF-8"'}


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].casefold()
    return host.rpartition(":")[0].casefold() if ":" in host else host.casefold()


def check_host(host: str, allowed: frozenset[str]) -> None:
    """Refuse a Host header that names another machine (DNS rebinding)."""
    if host_name(host) not in allowed:
        raise Refused(421, f"this server does not answer for host {host[:100]!r}; add it to server.allowed_hosts")


def check_origin(headers: Headers) -> None:
    """Refuse a state-changing request that a page of another site sent; programs send neither header."""
    origin = headers.get("origin")
    if origin is not None:
        if origin.partition("://")[2].casefold() != headers.get("host", "").casefold():
            raise Refused(403, f"a page of {origin[:100]} may not change anything here")
    elif headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise Refused(403, "a page of another site may not change anything here")


def check_length(length: str | None, max_bytes: int) -> None:
    """Refuse a body that announces more than the limit."""
    if length is not None and length.isdigit() and int(length) > max_bytes:
        raise Refused(413, f"a request may have {max_bytes} bytes, got {length}; see server.max_upload_mb")


def user_of(authorization: str, password: str) -> str | None:
    """The user name of a valid Basic or Bearer header, or None."""
    kind, _, value = authorization.partition(" ")
    if kind.casefold() == "basic":
        user, _, given = _decoded(value).partition(":")
        return (user or "annotator") if same(given, password) else None
    return user_of_token(value.strip(), password, time.time()) if kind.casefold() == "bearer" else None


def issue_token(user: str, password: str, now_s: float) -> str:
    """A signed token that names the user for half a day.

    Args:
        user: recorded as the author.
        password: the server's; signs the token, is not in it.
        now_s: UTC epoch seconds.
    """
    claim = base64.urlsafe_b64encode(f"{int(now_s) + TOKEN_LIFETIME_S}:{user}".encode()).decode()
    return f"{claim}.{_signature(claim, password)}"


def user_of_token(token: str, password: str, now_s: float) -> str | None:
    """The user of a token that is genuine and not too old, or None."""
    claim, _, signature = token.partition(".")
    if not same(signature, _signature(claim, password)):
        return None
    expires, _, user = _decoded(claim).partition(":")
    return (user or "annotator") if float(expires) > now_s else None


def _signature(claim: str, password: str) -> str:
    return hmac.new(password.encode(), claim.encode(), hashlib.sha256).hexdigest()


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how far they agree."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _decoded(value: str) -> str:
    """Text of a base64 value, empty when it is none."""
    try:
        return base64.urlsafe_b64decode(value.replace("+", "-").replace("/", "_")).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """Receive that stops a body which grows beyond the limit without having said so."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message: Message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > max_bytes else message

    return limited


def _with_headers(send: Send) -> Callable[[Message], Awaitable[Any]]:
    """Send that adds the protecting headers to each response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in RESPONSE_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
