import asyncio
from collections.abc import Callable

import httpx
import pytest
from starlette.types import ASGIApp


class Web:
    """Asks an ASGI application, one event loop a request; no lifespan."""

    def __init__(self, app: ASGIApp, base_url: str = "http://127.0.0.1:8000") -> None:
        self.app = app
        self.base_url = base_url

    def ask(self, method: str, url: str, **options: object) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=self.base_url) as client:
                return await client.request(method, url, **options)  # type: ignore[arg-type]

        return asyncio.run(send())

    def get(self, url: str, **options: object) -> httpx.Response:
        return self.ask("GET", url, **options)

    def post(self, url: str, **options: object) -> httpx.Response:
        return self.ask("POST", url, **options)

    def put(self, url: str, **options: object) -> httpx.Response:
        return self.ask("PUT", url, **options)


@pytest.fixture
def web() -> Callable[[ASGIApp], Web]:
    """Makes a client of an application."""
    return Web
