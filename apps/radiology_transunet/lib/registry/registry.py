"""The registry of model versions: MLflow for rows and aliases, a folder of weights beside it.

A version is registered in the order weights, row: its folder appears whole under a name of its own before the row
exists, so a killed process leaves at most a folder that nothing names, and the next registration removes it.
Registrations of all processes take turns under one file lock, for as long as weights take to copy; what changes rows
and aliases holds another one for an instant; readers wait for neither. Who decides what serves holds a third one from
the decision's first trace to its last, see `switching`, and never waits for a copy.

The alias `champion` is the truth of what serves a task. The versions that served before are remembered in a tag of the
task's model, which is written before the alias: an entry that equals the champion is the trace of a rollback, or of a
promotion that was interrupted, and counts as nothing.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from lib.core.errors import Conflict, InvalidInput, NotFound, WeightsUnavailable
from lib.registry.client import call, connect, load
from lib.registry.config import RegistryConfig
from lib.registry.folders import exclusive, publish, sweep
from lib.registry.versions import CHAMPION, FOLDER_TAG, KEY_TAG, METRICS_TAG, OWN_TAGS, ModelVersion, from_row

FORMER_TAG = "former_champions"
"""JSON list of versions, the newest last."""
REGISTER_LOCK = ".register.lock"
SWITCH_LOCK = ".switch.lock"
SWITCH_WAIT_S = 30.0
"""A switch takes a second; who waits longer learns that another process is stuck in one."""


class Registry:
    """Model versions of all tasks; safe to use from many threads and processes.

    The constructor does nothing but remember; the first call that needs MLflow opens it (about 5 s in a fresh process),
    unless `open` was called before, for example in the background at start.

    Args:
        config: both places filled in, see `RegistryConfig.located`.
    """

    def __init__(self, config: RegistryConfig) -> None:
        if not config.uri or not config.models:
            raise InvalidInput(f"a registry needs a uri and a folder, got {config}; see RegistryConfig.located")
        self._uri = config.uri
        self._models = Path(config.models)
        self._opening = threading.Lock()
        self._client: Any = None

    def prepare(self) -> None:
        """Make database and folder where they are missing; belongs in the set-up (7 s on an empty database)."""
        self.open()

    def open(self) -> None:
        """Connect once a process.

        Raises:
            RegistryUnavailable: the database cannot be opened.
        """
        with self._opening:
            if self._client is None:
                load()
                with exclusive(self._models):  # two first openers would both create the tables
                    self._client = connect(self._uri)

    def register(
        self,
        task: str,
        folder: Path,
        metrics: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
        key: str = "",
    ) -> int:
        """Copy weights and manifest into the registry and make them the task's next version.

        Args:
            task: name of the task.
            folder: what belongs to the version; it is copied and may be deleted afterwards.
            metrics: what was measured, by name.
            tags: what to remember beside.
            key: names the piece of work; registering the same key again returns the version that exists.

        Raises:
            InvalidInput: the folder is missing or empty.
            WeightsUnavailable: see `require_weights`.
        """
        if not folder.is_dir() or not any(folder.iterdir()):
            raise InvalidInput(f"a model version needs a folder with weights and manifest, got {folder}")
        self.open()
        with exclusive(self._models, REGISTER_LOCK):
            known = self._rows(task)
            for row in known:
                if key and row.tags.get(KEY_TAG) == key:
                    return int(row.version)
            self.require_weights(task)
            sweep(self._models / task, {row.tags.get(FOLDER_TAG, "") for row in known})
            uid = uuid4().hex
            target = self._models / task / uid
            publish(folder, target)
            with exclusive(self._models):
                return self._add_row(task, target, {**(tags or {}), **_own_tags(uid, metrics, key)})

    def require_weights(self, task: str) -> None:
        """Make sure that the weights of a task are not away as a whole: single folders are deleted, all go unmounted.

        Raises:
            WeightsUnavailable: the task has versions, and the folder that has all their folders is missing.
        """
        folder = self._models / task
        if not folder.is_dir() and self._rows(task):
            raise WeightsUnavailable(
                f"{folder} must hold the weights of task {task}'s versions, it is missing: mount it; if they are gone "
                "for good, make an empty folder there"
            )

    def champion(self, task: str) -> ModelVersion | None:
        """The version that serves the task, or None; a few milliseconds once open.

        Raises:
            NotFound: its folder was deleted.
            WeightsUnavailable: see `require_weights`.
        """
        number = self._champion_number(task)
        return None if number is None else self._version(task, number, champion=number)

    def get(self, task: str, version: int) -> ModelVersion:
        """One version.

        Raises:
            NotFound: there is none of that number, or its folder was deleted.
        """
        return self._version(task, version, self._champion_number(task))

    def path(self, task: str, version: int) -> Path:
        """The folder of a version's weights and manifest; read-only by agreement."""
        return self.get(task, version).folder

    def list(self, task: str) -> tuple[ModelVersion, ...]:
        """Every version of the task whose weights are there, the newest first."""
        self.open()
        champion = self._champion_number(task)
        versions = (from_row(row, self._models, champion) for row in self._rows(task))
        return tuple(sorted((v for v in versions if v.folder.is_dir()), key=lambda v: -v.version))

    def find(self, task: str, key: str) -> ModelVersion | None:
        """The version that was registered under this key, or None."""
        return next((version for version in self.list(task) if version.key == key), None)

    @contextmanager
    def switching(self) -> Iterator[None]:
        """Hold the right to decide what serves against all other processes and threads; not twice at once.

        Raises:
            RegistryUnavailable: another process has held it for half a minute.
        """
        with exclusive(self._models, SWITCH_LOCK, SWITCH_WAIT_S):
            yield

    def promote(self, task: str, version: int) -> int | None:
        """Let a version serve the task.

        Returns:
            The version that served before, None when none did.

        Raises:
            NotFound: there is no such version, or its folder was deleted.
        """
        self.get(task, version)
        with exclusive(self._models):
            before = self._champion_number(task)
            if before != version:
                former = self._former(task)
                if before is not None and former[-1:] != (before,):
                    former = (*former, before)
                self._remember(task, former)
                call(lambda: self._client.set_registered_model_alias(task, CHAMPION, str(version)))
            return before

    def note(self, task: str, version: int, name: str, text: str) -> None:
        """Remember something with a version that exists; the last text of a name counts.

        Raises:
            InvalidInput: a name that the registry itself uses.
            NotFound: there is no such version.
        """
        if name in OWN_TAGS:
            raise InvalidInput(f"a note must not be called {', '.join(OWN_TAGS)}, got {name!r}")
        self.open()
        call(lambda: self._client.set_model_version_tag(task, str(version), name, text))

    def previous(self, task: str) -> int | None:
        """The version that a rollback would go to: the last former champion whose weights are still there."""
        champion = self._champion_number(task)
        there = {version.version for version in self.list(task)} - {champion}
        return next((number for number in reversed(self._former(task)) if number in there), None)

    def served(self, task: str) -> tuple[int, ...]:
        """The versions that served one after the other up to the champion, which is the last; rollbacks are undone."""
        champion = self._champion_number(task)
        return () if champion is None else (*(n for n in self._former(task) if n != champion), champion)

    def rollback(self, task: str, to: int) -> ModelVersion:
        """Let a version serve again that served before; nothing changes when it serves already.

        Raises:
            Conflict: it did not serve before the champion.
            NotFound: its weights are gone.
        """
        self.get(task, to)
        with exclusive(self._models):
            former, champion = self._former(task), self._champion_number(task)
            if champion != to:
                if to not in former:
                    before = [number for number in former if number != champion]
                    raise Conflict(f"version {to} of task {task} must be one that served before, got {before}")
                newest = max(index for index, number in enumerate(former) if number == to)
                self._remember(task, former[: newest + 1])  # with `to`: who dies before the alias can do this again
                call(lambda: self._client.set_registered_model_alias(task, CHAMPION, str(to)))
        return self.get(task, to)

    def _version(self, task: str, version: int, champion: int | None) -> ModelVersion:
        row = call(lambda: self._client.get_model_version(task, str(version)))
        found = from_row(row, self._models, champion)
        if not found.folder.is_dir():
            self.require_weights(task)
            raise NotFound(f"version {version} of task {task} has lost its weights: {found.folder} is missing")
        return found

    def _champion_number(self, task: str) -> int | None:
        model = self._model(task)
        number = model.aliases.get(CHAMPION) if model is not None else None
        return None if number is None else int(number)

    def _former(self, task: str) -> tuple[int, ...]:
        """Versions that served before, the newest last."""
        model = self._model(task)
        numbers = json.loads(model.tags.get(FORMER_TAG, "[]")) if model is not None else []
        return tuple(int(number) for number in numbers)

    def _remember(self, task: str, former: tuple[int, ...]) -> None:
        call(lambda: self._client.set_registered_model_tag(task, FORMER_TAG, json.dumps(former)))

    def _model(self, task: str) -> Any | None:
        """MLflow's row of the task, None when nothing was ever registered for it."""
        self.open()
        try:
            return call(lambda: self._client.get_registered_model(task))
        except NotFound:
            return None

    def _rows(self, task: str) -> tuple[Any, ...]:
        """MLflow's rows of all versions of the task."""
        self.open()
        rows: tuple[Any, ...] = ()
        token = None
        while True:
            page = call(partial(self._client.search_model_versions, f"name='{task}'", page_token=token))
            rows, token = rows + tuple(page), page.token
            if not token:
                return rows

    def _add_row(self, task: str, folder: Path, tags: Mapping[str, str]) -> int:
        if self._model(task) is None:
            call(lambda: self._client.create_registered_model(task))
        row = call(lambda: self._client.create_model_version(task, source=folder.as_uri(), tags=dict(tags)))
        return int(row.version)


def _own_tags(uid: str, metrics: Mapping[str, float], key: str) -> dict[str, str]:
    """What the registry itself remembers with a version."""
    return {FOLDER_TAG: uid, METRICS_TAG: json.dumps(dict(metrics)), **({KEY_TAG: key} if key else {})}
