"""What every route works with, opened once by the application's start."""

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
from fastapi import Depends, Query, Request

from lib.server.counts import CountCache
from lib.server.pool import Pool
from lib.server.proxy import open_client
from lib.server.sessions import Sessions
from lib.server.watch import ArchiveWatch, impatient
from lib.settings import Settings, load_settings
from lib.workflows.models import ChampionCache
from lib.workflows.services import Services, open_services

QUICK_THREADS = 8
QUICK_WAITING = 256
STUDIES = "MONAI_LABEL_STUDIES"
FOREIGN_NAMES = {
    STUDIES: "TRANSUNET_ARCHIVE__URL",
    "MONAI_LABEL_DICOMWEB_USERNAME": "TRANSUNET_ARCHIVE__USERNAME",
    "MONAI_LABEL_DICOMWEB_PASSWORD": "TRANSUNET_ARCHIVE__PASSWORD",
}
"""Options of MONAI Label's own command, and the names that they have here; ours win."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of a running server.

    Attributes:
        services: the rooms.
        champions: loaded models.
        counts: numbers of series by state, a few seconds old at most.
        quick: threads for what asks the ledger alone.
        heavy: threads for what computes or waits for the archive.
        sessions: uploaded images.
        archive: the client that /dicom-web speaks through.
        warm: set once the registry is open and the champions are loaded.
        watch: knows whether the archive answers.
        uploads: folder for files of a single request.
        viewer: folder of the OHIF viewer's files.
    """

    services: Services
    champions: ChampionCache
    counts: CountCache
    quick: Pool
    heavy: Pool
    sessions: Sessions
    archive: httpx.AsyncClient
    warm: threading.Event
    watch: ArchiveWatch
    uploads: Path
    viewer: Path

    @property
    def settings(self) -> Settings:
        """Of this installation."""
        return self.services.settings

    async def close(self) -> None:
        """Let go of threads and connections."""
        self.watch.stop()
        self.quick.close()
        self.heavy.close()
        await self.archive.aclose()


def open_context(settings: Settings) -> Context:
    """Compose the parts; asks neither the archive nor the registry."""
    services = open_services(settings)
    server = settings.server
    uploads = settings.var / "cache" / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    return Context(
        services=services,
        champions=ChampionCache(services),
        counts=CountCache(services.ledger.cases.counts),
        quick=Pool("quick", QUICK_THREADS, QUICK_WAITING),
        heavy=Pool("heavy", server.threads, server.max_waiting),
        sessions=Sessions(settings.var / "cache" / "sessions", server.session_expiry_s),
        archive=open_client(settings.archive),
        warm=threading.Event(),
        watch=ArchiveWatch(impatient(settings.archive)),
        uploads=uploads,
        viewer=server.viewer_folder(settings.var),
    )


def server_settings(environ: Mapping[str, str] | None = None, conf: Iterable[tuple[str, str]] = ()) -> Settings:
    """The settings, with what MONAI Label's own command line put into the environment.

    Args:
        environ: the environment; os.environ when None.
        conf: pairs ("section.key", value) of a command line.
    """
    given = dict(os.environ if environ is None else environ)
    for foreign, own in FOREIGN_NAMES.items():
        value = given.get(foreign, "")
        if value and own not in given and (foreign != STUDIES or value.startswith(("http://", "https://"))):
            given[own] = value
    return load_settings(conf, given)


def _of_request(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(_of_request)]
Every = Annotated[bool, Query(alias="all")]
"""MONAI Label's query parameter `all`."""
