"""Asks an ASGI application without a server process, from any thread."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import httpx
from starlette.types import ASGIApp

T = TypeVar("T")


class Web:
    """A client of the application on an event loop of its own; no lifespan runs.

    Args:
        app: whom to ask.
        base_url: what the requests say of the server.
    """

    def __init__(self, app: ASGIApp, base_url: str = "http://127.0.0.1:8000") -> None:
        self._app, self._base_url = app, base_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.run(self._send(method, url, options))

    def send(self, method: str, url: str, **options: Any) -> "Future[httpx.Response]":
        """Ask without waiting for the answer."""
        return asyncio.run_coroutine_threadsafe(self._send(method, url, options), self._loop)

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.ask("GET", url, **options)

    def post(self, url: str, **options: Any) -> httpx.Response:
        return self.ask("POST", url, **options)

    def put(self, url: str, **options: Any) -> httpx.Response:
        return self.ask("PUT", url, **options)

    def delete(self, url: str, **options: Any) -> httpx.Response:
        return self.ask("DELETE", url, **options)

    async def _send(self, method: str, url: str, options: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=self._base_url, timeout=60) as client:
            return await client.request(method, url, **options)
