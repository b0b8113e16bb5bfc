"""Which model serves: the champion of each task, loaded.

Concurrency: a `ChampionCache` belongs to one process and is used from many of its threads. What serves a task is one
frozen pair of predictor and version, replaced in one assignment: a request that has the old pair finishes with it,
the next request gets the new one, nobody sees half a model. One thread at a time loads a new champion; the others go
on with the old one, and wait only when there is none yet.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lib.core.errors import LabelError, NoChampion, NotFound
from lib.core.estimated import EstimatedDice
from lib.core.values import Prediction
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.estimates import Qualities, origin_of
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves a task: a predictor and the version that it was loaded from."""

    predictor: "Predictor"
    model: ModelVersion


@dataclass(slots=True)
class _Slot:
    """One task's place in the cache; written by the thread that holds `loading`."""

    loading: threading.Lock = field(default_factory=threading.Lock)
    serving: Serving | None = None
    refused: ModelVersion | None = None  # the champion that could not be loaded
    checked_at: float = float("-inf")


class ChampionCache:
    """The champions of all tasks, loaded.

    Args:
        services: the rooms.
        device: where networks run; empty = as the settings say.
        check_every_s: seconds for which an alias that was read counts as fresh.
    """

    def __init__(self, services: Services, device: str = "", check_every_s: float = CHECK_EVERY_S) -> None:
        self._services = services
        self._device = device or services.settings.inference.device
        self._check_every_s = check_every_s
        self._slots = {name: _Slot() for name in services.tasks}
        self._qualities = self._new_qualities()

    def predictor(self, task_name: str) -> tuple["Predictor", int]:
        """The champion of a task and its version.

        A champion that cannot be loaded is refused: the one in memory goes on serving, and the refusal is logged once.

        Raises:
            NotFound: no such task is served.
            NoChampion: no model serves the task; the message says how to train one.
            ManifestMismatch: the champion does not fit the task, and none before it is in memory; names the field.
            RegistryUnavailable: the registry does not answer, and no champion is in memory.
        """
        task = self._services.task(task_name)
        slot = self._slots[task.name]
        if time.monotonic() - slot.checked_at >= self._check_every_s:
            self._check(task, slot)
        serving = slot.serving
        if serving is None:
            raise no_champion(task.name)
        return serving.predictor, serving.model.version

    def estimates(self, task_name: str, version: int, prediction: Prediction) -> Mapping[str, EstimatedDice]:
        """The estimated Dice of each label of a prediction; empty where that version does not serve or has none."""
        serving = self._slots[task_name].serving
        if serving is None or serving.model.version != version:
            return {}
        return self._qualities.estimates(serving.model, prediction)

    def calibrated_on(self, model: ModelVersion) -> int | None:
        """How many patients the intervals of a version's estimates rest on; None where it has no estimates."""
        return self._qualities.patients(model)

    def warm(self) -> None:
        """Load every champion, for example in the background at start; what cannot be loaded is logged."""
        for name in self._slots:
            try:
                self.predictor(name)
            except LabelError as error:
                logger.warning("task %s serves no model yet: %s", name, error)

    def _check(self, task: Task, slot: _Slot) -> None:
        """Read the alias and load a new champion, unless another thread is at it and an old one serves."""
        if not slot.loading.acquire(blocking=slot.serving is None):
            return
        try:
            if time.monotonic() - slot.checked_at >= self._check_every_s:
                self._refresh(task, slot)
                slot.checked_at = time.monotonic()
        finally:
            slot.loading.release()

    def _refresh(self, task: Task, slot: _Slot) -> None:
        champion = None
        try:
            champion = self._services.registry.champion(task.name)
            if champion is None:
                slot.serving = None
            elif slot.serving is None or not _same(champion, slot.serving.model):
                self._load(task, slot, champion)
        except LabelError as error:
            if slot.serving is None:
                raise
            if champion is None or not _same(champion, slot.refused):
                logger.error("task %s goes on with version %d: %s", task.name, slot.serving.model.version, error)
            slot.refused = champion

    def _load(self, task: Task, slot: _Slot, champion: ModelVersion) -> None:
        if slot.serving is not None and _same(champion, slot.refused):
            return
        serving = Serving(load_served(self._services, task, champion, self._device), champion)
        self._qualities = self._new_qualities()  # an ensemble's members, and with them the origin, may be others now
        slot.serving = serving
        logger.info("task %s is served by version %d", task.name, champion.version)

    def _new_qualities(self) -> Qualities:
        return Qualities(lambda model: served_origin(self._services, self._services.task(model.task), model))


def _same(model: ModelVersion, other: ModelVersion | None) -> bool:
    """Whether both are one version; the folder tells it after the state folder was made anew."""
    return other is not None and (model.version, model.folder) == (other.version, other.folder)


def load_version(services: Services, task: Task, model: ModelVersion, device: str = "") -> "Predictor":
    """Any version of a task's model, ready to predict.

    Raises:
        ManifestMismatch: it does not fit the task; names the field.
    """
    from lib.inference.model import load_predictor

    config = services.settings.inference
    return _named(load_predictor(model.folder, task, device or config.device, config.batch_size), task, model)


def load_served(services: Services, task: Task, champion: ModelVersion, device: str = "") -> "Predictor":
    """The champion with the samples of its uncertainty, as the settings say.

    Raises:
        ManifestMismatch: the champion does not fit the task; names the field.
        InvalidSettings: samples that the task's network does not give.
    """
    from lib.inference.sampled import load_sampled

    settings, others = services.settings, compared_folders(services, task, champion)
    where, batch_size = device or settings.inference.device, settings.inference.batch_size
    predictor = load_sampled(champion.folder, others, task, where, batch_size, settings.uncertainty)
    return _named(predictor, task, champion)


def served_origin(services: Services, task: Task, model: ModelVersion) -> str:
    """Names what a version's predictions are when it serves: see `estimates.origin_of`.

    Raises:
        NotFound, ManifestMismatch: a manifest cannot be read.
    """
    uncertainty = services.settings.uncertainty
    return origin_of(model.folder, uncertainty, task.predict, compared_folders(services, task, model))


def compared_folders(services: Services, task: Task, champion: ModelVersion) -> list[Path]:
    """Of the models that an ensemble compares a champion with: those that served before, the newest first.

    One that has lost its weights is left out, and whoever loads them leaves out what does not fit the task any more.
    """
    if services.settings.uncertainty.kind != "ensemble":
        return []
    found = []
    for version in reversed(services.registry.served(task.name)):
        try:
            found += [] if version == champion.version else [services.registry.path(task.name, version)]
        except NotFound as error:
            logger.info("version %d of task %s is not compared with: %s", version, task.name, error)
    return found


def _named(predictor: "Predictor", task: Task, model: ModelVersion) -> "Predictor":
    """The predictor, which names its version in its errors from now on."""
    predictor.name = f"version {model.version} of task {task.name}"
    return predictor


def no_champion(task_name: str) -> NoChampion:
    """The error of a task that nothing serves, with the way out."""
    return NoChampion(
        f"no model serves task {task_name} yet; label a few series and run: transunet-label retrain --task {task_name}"
    )


def require_champion(services: Services, task: Task) -> ModelVersion:
    """The version that serves the task.

    Raises:
        NoChampion: none does; the message says how to train one.
    """
    champion = services.registry.champion(task.name)
    if champion is None:
        raise no_champion(task.name)
    return champion
