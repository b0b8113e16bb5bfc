"""What every use case works with, opened once by server, worker and command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.core.errors import InvalidSettings, NotFound
from lib.dicom.orthanc import Archive
from lib.ledger.ledger import Ledger
from lib.registry.registry import Registry
from lib.settings import Settings
from lib.taskfile import Task, load_task


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
        InvalidSettings: no task, two tasks of one name, a key that is too short, a kind of uncertainty that a task's
            network does not have.
        InvalidTask: a task file is wrong.
    """
    tasks = [load_task(name) for name in settings.tasks]
    if not tasks or len({task.name for task in tasks}) != len(tasks):
        raise InvalidSettings(f"tasks must name at least one task file and none twice, got {list(settings.tasks)}")
    for task in tasks:
        settings.uncertainty.require_possible(task.name, task.network, task.predict)
    settings.var.mkdir(parents=True, exist_ok=True)
    return Services(
        settings=settings,
        tasks={task.name: task for task in tasks},
        archive=Archive(settings.archive),
        ledger=Ledger(settings.ledger.resolved_url(settings.var)),
        registry=Registry(settings.registry.located(settings.var)),
        key=settings.ledger.key(settings.var),
    )


def prepare_ledger(services: Services) -> None:
    """Bring the ledger's schema up to date, and go on only with the key that its pseudonyms were made with.

    Raises:
        InvalidSettings: another key.
        LedgerUnavailable: the database does not answer, or is of a newer version than this software.
    """
    services.ledger.upgrade()
    services.ledger.keys.require(services.key)
