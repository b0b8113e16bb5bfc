"""The MONAI Label app, for MONAI Label's own command.

    python -m monailabel.main start_server --app apps/radiology_transunet --studies http://127.0.0.1:8042/dicom-web

Constructing it reads task files and opens nothing: MONAI Label builds it anew in each of its child processes. In the
server process a worker runs in threads, so that this command is enough by itself; `--conf worker false` leaves it out.
The routes of that command are MONAI Label's own, with its open /logs and /proxy and its blocking inference;
`transunet-label serve` has neither.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore

from lib.core.errors import InvalidInput, LabelError
from lib.selection.strategies import STRATEGIES
from lib.server import describe
from lib.server.context import server_settings
from lib.server.datastore import LedgerDatastore
from lib.server.errors import NotAllowed, status_of
from lib.server.images import UID
from lib.server.tasks import DraftAll, NextCase, RankQueue, Retraining, Segmentation
from lib.settings import Settings
from lib.taskfile import load_task
from lib.workflows.models import ChampionCache
from lib.workflows.services import Services, open_services, prepare_ledger
from lib.workflows.worker import Worker

logger = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


def answered(method: Method) -> Method:
    """Let our errors leave as HTTP statuses: MONAI Label answers 500 with a stack trace to any other exception."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except (LabelError, NotAllowed) as error:
            raise HTTPException(status_of(error), str(error)) from error

    return wrapper  # type: ignore[return-value]


class AnsweredDatastore(LedgerDatastore):
    """The datastore as routes see it."""

    def __getattribute__(self, name: str) -> Any:
        """Every public method answers errors as HTTP statuses."""
        found = super().__getattribute__(name)
        return answered(found) if callable(found) and not name.startswith("_") else found


class TransUNetApp(MONAILabelApp):
    """TransUNet pre-segmentation, choice of the next case and gated retraining."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self._settings = _settings(studies, conf)
        self._lock = threading.Lock()
        self._services: Services | None = None
        self._champions: ChampionCache | None = None
        self._tasks = {task.name: task for task in map(load_task, self._settings.tasks)}
        self._with_worker = str(conf.get("worker", "true")).casefold() != "false"
        super().__init__(app_dir, studies, dict(conf), describe.NAME, describe.DESCRIPTION, describe.VERSION)
        self._auto_update_scoring = False

    def services(self) -> Services:
        """The rooms, opened at the first use."""
        with self._lock:
            if self._services is None:
                services = open_services(self._settings)
                prepare_ledger(services)
                self._services, self._champions = services, ChampionCache(services)
            return self._services

    def champions(self) -> ChampionCache:
        """Loaded models."""
        self.services()
        assert self._champions is not None
        return self._champions

    def init_datastore(self) -> Datastore:
        """Ours; nothing is downloaded."""
        return AnsweredDatastore(self.services)

    def init_infers(self) -> dict[str, Segmentation]:
        """One a task."""
        return {name: Segmentation(task, self.services, self.champions) for name, task in self._tasks.items()}

    def init_trainers(self) -> dict[str, Retraining]:
        """One a task."""
        return {name: Retraining(task, self.services) for name, task in self._tasks.items()}

    def init_strategies(self) -> dict[str, NextCase]:
        """One a way of choosing."""
        return {name: NextCase(name, strategy.describe, self.services) for name, strategy in STRATEGIES.items()}

    def init_scoring_methods(self) -> dict[str, RankQueue]:
        """Ranking the queue."""
        return {"queue": RankQueue(self.services)}

    def init_batch_infer(self) -> DraftAll:
        """Drafts for what lacks one."""
        return DraftAll(self.services)

    @answered
    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment a series of the archive; never a path, also not the one of an upload."""
        task = self._infers.get(str(request.get("model")))
        if task is None:
            raise InvalidInput(f"models are {', '.join(self._infers)}, got {request.get('model')!r}")
        image = str(request.get("image", ""))
        if not UID.fullmatch(image):
            raise InvalidInput(
                f"image must be a SeriesInstanceUID; uploads need transunet-label serve, got {image[:100]!r}"
            )
        path, params = task(request)
        return {"label": path, "tag": "original", "file": path, "params": params}

    @answered
    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next case; clients download its image, so no path is given."""
        task = self._strategies.get(request.get("strategy") or self._settings.query.strategy)
        if task is None:
            raise InvalidInput(f"strategies are {', '.join(self._strategies)}, got {request.get('strategy')!r}")
        found: dict[str, Any] = task(request, self.datastore())
        return found

    @answered
    def train(self, request: dict[str, Any]) -> Any:
        """Retrain a task."""
        return super().train(request)

    @answered
    def info(self) -> Any:
        """What MONAI Label's clients ask first."""
        return super().info()

    def on_init_complete(self) -> None:
        """The server is up: follow the archive, make drafts."""
        if self._with_worker:
            worker = Worker(self.services(), threading.Event())
            threading.Thread(target=worker.run, name="worker", daemon=True).start()

    def _load_sessions(self, load: bool = False) -> None:
        """Uploaded images are served by `transunet-label serve` alone."""


def _settings(studies: str, conf: Mapping[str, str]) -> Settings:
    """Ours from the environment, the archive from `--studies`, options with a dot in their name from `--conf`."""
    pairs = [(name, value) for name, value in conf.items() if "." in name]
    archive = {"TRANSUNET_ARCHIVE__URL": studies} if studies.startswith(("http://", "https://")) else {}
    return server_settings({**os.environ, **archive}, pairs)
