"""MONAI Label's small interfaces, each a few lines above a workflow; for the stock command."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from lib.core.errors import InvalidInput, TrainingFailed
from lib.server import describe, replies
from lib.server.images import series_uid
from lib.server.volumefiles import WRITABLE, write_labels
from lib.taskfile import Task
from lib.workflows import query
from lib.workflows.jobs import RETRAIN
from lib.workflows.models import ChampionCache
from lib.workflows.plan import PARAMS
from lib.workflows.presegment import enqueue_drafts, predict_series
from lib.workflows.retrain import request_retrain
from lib.workflows.retrain_job import work_on
from lib.workflows.services import Services

Open = Callable[[], Services]

POLL_S = 1.0
OPEN_STATES = ("queued", "running")
STOCK_WORKER = "monailabel"


class Segmentation(InferTask):
    """A task's champion."""

    def __init__(self, task: Task, services: Open, champions: Callable[[], ChampionCache]) -> None:
        names = {label.name: label.id for label in task.schema}
        super().__init__(InferType.SEGMENTATION, names, 3, task.description)
        self._task, self._services, self._champions = task, services, champions

    def is_valid(self) -> bool:
        """Listed also while no model serves: asking says how to train one."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Path of the label file, and the result's fields."""
        uid = series_uid(str(request.get("image", "")))
        made = predict_series(self._services(), self._champions(), self._task, uid)
        extension = str(request.get("result_extension") or WRITABLE[0])
        if extension not in WRITABLE:
            raise InvalidInput(f"result_extension must be one of {', '.join(WRITABLE)}, got {extension!r}")
        started = time.perf_counter()
        handle, path = tempfile.mkstemp(suffix=extension)
        os.close(handle)
        write_labels(made.prediction.mask.array, made.prediction.geometry, Path(path))
        spent_s = time.perf_counter() - started
        return path, replies.infer_params(made.prediction, made.model_version, spent_s, made.estimates)


class Retraining(TrainTask):
    """A job of the ledger; MONAI Label's child process does it when no worker takes it."""

    def __init__(self, task: Task, services: Open) -> None:
        super().__init__(f"Retrain {task.name} behind the gate")
        self._task, self._services = task, services

    def stats(self) -> dict[str, Any]:
        """Progress of the newest training."""
        return describe.train_stats(self._services(), self._task)

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Ask for a training and stay until it has ended."""
        services = self._services()
        params = {key: value for key, value in request.items() if key in PARAMS}
        job_id = request_retrain(services, self._task, params, str(request.get("client_id") or "monailabel"))
        jobs = services.ledger.jobs
        while (row := jobs.get(job_id)).state in OPEN_STATES:
            taken = jobs.take((RETRAIN,), f"{STOCK_WORKER}:{os.getpid()}", services.settings.worker.job_lease_s)
            if taken is not None:
                work_on(services, taken, parent=os.getppid())
            else:
                time.sleep(POLL_S)
        if row.state != "done":
            raise TrainingFailed(f"job {job_id} {row.state}: {row.error or 'no reason given'}")
        return replies.job(row)


class NextCase(Strategy):
    """A way to choose the next case, handed out under a lease."""

    def __init__(self, name: str, description: str, services: Open) -> None:
        super().__init__(description)
        self._name, self._services = name, services

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Id and reason of the case, empty when none is free."""
        services = self._services()
        task = services.task(request.get("model"))
        case = query.next_case(services, task, self._name, str(request.get("client_id") or "unknown (viewer)"))
        return {} if case is None else {"id": case.series_uid, "why": case.why, "lease_until": str(case.lease_until)}


class RankQueue(ScoringMethod):
    """Rank the queues anew from the scores that drafts carry."""

    def __init__(self, services: Open) -> None:
        super().__init__(describe.SCORING["queue"])
        self._services = services

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, int]:
        """Number of queued cases by task."""
        services = self._services()
        return {name: query.refresh_queues(services, task) for name, task in services.tasks.items()}


class DraftAll:
    """Batch inference: a job for each series that lacks a draft."""

    def __init__(self, services: Open) -> None:
        self._services = services

    def __call__(self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, int]:
        """Number of new jobs."""
        services = self._services()
        return {"queued": enqueue_drafts(services, services.task(request.get("model")))}
