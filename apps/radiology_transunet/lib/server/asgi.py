"""The ASGI application of `transunet-label serve`.

Every route that MONAI Label's clients use is answered here, so monailabel is never imported in this process: it starts
in seconds instead of twenty, and the stock's open routes (/logs, /proxy, /reload) do not exist. `lib.server.app` is the
MONAI Label app for the stock command; that command serves these routes too when given `--uvicorn_app
lib.server.asgi:app`.

Concurrency: routes are coroutines that parse and shape; whatever blocks runs in two bounded pools, one for the ledger
and one for computing and the archive. State of a request lives on its own stack.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from lib.server import errors
from lib.server.context import Context, open_context, server_settings
from lib.server.routes import ROUTERS
from lib.server.security import Security
from lib.settings import Settings
from lib.workflows.services import prepare_ledger

logger = logging.getLogger(__name__)

TITLE = "radiology_transunet"


def build_app(settings: Settings) -> FastAPI:
    """Routes and error replies for these settings; nothing is opened before it starts."""
    app = FastAPI(title=TITLE, lifespan=_lifespan(settings), docs_url=None, redoc_url=None, redirect_slashes=False)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def create_app() -> ASGIApp:
    """The application for the settings of the environment, behind its guard."""
    settings = server_settings()
    return Security(build_app(settings), settings.server)


def _lifespan(settings: Settings) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = open_context(settings)
        app.state.context = context
        prepare_ledger(context.services)
        context.watch.start()
        warm_up = asyncio.create_task(context.heavy.run(_warm_up, context))
        logger.info("serving %s for %s", ", ".join(context.services.tasks), settings.server.url)
        try:
            yield
        finally:
            warm_up.cancel()
            await context.close()

    return lifespan


def _warm_up(context: Context) -> None:
    """Import torch and load the champions before the first request needs them."""
    from lib.inference.devices import set_threads

    set_threads(context.settings.inference.threads)
    try:
        context.champions.warm()
    finally:
        context.warm.set()


def __getattr__(name: str) -> Any:
    """`app`, made when a server asks for it: importing this module has no effect."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
