"""What every use case works with, opened once by server, worker and command line."""

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.errors import InvalidSettings, NotFound
from lib.dicom.orthanc import Archive
from lib.ledger.ledger import Ledger
from lib.registry.registry import Registry
from lib.settings import Settings
from lib.taskfile import Task, load_task

logger = logging.getLogger(__name__)

KEY_FILE = "pseudonym.key"
MIN_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Services:
    """The rooms, configured.

    Attributes:
        settings: of this installation.
        tasks: served tasks by name; the first one is the default.
        archive: Orthanc; it may be away.
        ledger: durable state.
        registry: model versions.
        key: secret of pseudonyms and splits.
    """

    settings: Settings
    tasks: Mapping[str, Task]
    archive: Archive
    ledger: Ledger
    registry: Registry
    key: bytes = field(repr=False)

    def task(self, name: str | None = None) -> Task:
        """The task of that name, or the default one.

        Raises:
            NotFound: no such task is served; lists those that are.
        """
        if not name:
            return next(iter(self.tasks.values()))
        if name not in self.tasks:
            raise NotFound(f"task {name!r} is not served here; served: {', '.join(self.tasks)}")
        return self.tasks[name]


def open_services(settings: Settings) -> Services:
    """Compose the rooms; opens no connection and asks nobody.

    Raises:
        InvalidSettings: no task, two tasks of one name, a key that is too short.
        InvalidTask: a task file is wrong.
    """
    tasks = [load_task(name) for name in settings.tasks]
    if len({task.name for task in tasks}) != len(tasks) or not tasks:
        raise InvalidSettings(f"tasks must name at least one task file and none twice, got {list(settings.tasks)}")
    settings.var.mkdir(parents=True, exist_ok=True)
    return Services(
        settings=settings,
        tasks={task.name: task for task in tasks},
        archive=Archive(settings.archive),
        ledger=Ledger(settings.ledger.url or f"sqlite:///{settings.var / 'ledger.db'}"),
        registry=Registry(settings.registry, settings.var),
        key=_key(settings),
    )


def _key(settings: Settings) -> bytes:
    """The key of the environment, or the one in the state folder, made at the first start."""
    if settings.ledger.key:
        if len(settings.ledger.key) < MIN_KEY_BYTES:
            raise InvalidSettings(f"ledger.key needs at least {MIN_KEY_BYTES} characters, got {len(settings.ledger.key)}")
        return settings.ledger.key.encode()
    path = settings.var / KEY_FILE
    if not path.exists():
        _publish_key(path)
    return bytes.fromhex(path.read_text(encoding="ascii"))


def _publish_key(path: Path) -> None:
    """Write a new key unless another process is faster: `link` never replaces a file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
        logger.info("made the key of patient pseudonyms in %s; back it up with the ledger", path)
    except FileExistsError:
        logger.debug("another process made %s first", path)
    finally:
        draft.unlink()
