"""A model looks at series for scores alone: here with what serves, or elsewhere with what was sent there."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from lib.core.errors import ArchiveUnavailable, DiskFull, LabelError
from lib.core.values import Volume
from lib.inference.config import UncertaintyConfig
from lib.ledger.scores import Said
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.models import ChampionCache, compared_folders
from lib.workflows.presegment import kept_values, load_or_mark, require_suitable
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor

logger = logging.getLogger(__name__)

Cause = Literal["", "images", "look", "memory", "device"]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A series to look at.

    Attributes:
        series_uid: which one.
        volume: its image; None when it has none.
        error: why it has none.
        instances: how many the ledger knew before they were fetched; None = it was not asked.
    """

    series_uid: str
    volume: Volume | None
    error: str = ""
    instances: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What came of a look.

    Attributes:
        series_uid: at what.
        version: of the model that looked.
        said: what it said, or what went wrong.
        cause: where that lies: in the "images"; in the "look", where the model fails on them; in the "memory", of which
            there is too little; in the "device", which does not work. "" when nothing went wrong.
        instances: of the picture.
    """

    series_uid: str
    version: int
    said: Said
    cause: Cause = ""
    instances: int | None = None


class Pictures(Sequence[Picture]):
    """Series that are fetched when they are asked for.

    Args:
        services: the rooms.
        task: that they are looked at for.
        uids: which series.
    """

    def __init__(self, services: Services, task: Task, uids: Sequence[str]) -> None:
        self._services = services
        self._task = task
        self._uids = uids

    def __len__(self) -> int:
        return len(self._uids)

    @overload
    def __getitem__(self, index: int) -> Picture: ...

    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...

    def __getitem__(self, index: "int | slice") -> "Picture | Pictures":
        if isinstance(index, slice):
            return Pictures(self._services, self._task, self._uids[index])
        return self._fetched(self._uids[index])

    def _fetched(self, series_uid: str) -> Picture:
        """The picture, or why there is none; an archive that is away is no reason.

        Raises:
            ArchiveUnavailable: the archive does not answer.
            DiskFull: no room for what it sent.
        """
        instances = self._services.ledger.series.get(series_uid).instances
        try:
            source = load_or_mark(self._services, series_uid)
            require_suitable(source, self._task)
        except (ArchiveUnavailable, DiskFull):
            raise
        except LabelError as error:
            return Picture(series_uid, None, str(error), instances)
        return Picture(series_uid, source.volume, instances=instances)


class LocalLook:
    """Looks with the champion that serves in this process.

    Args:
        champions: what serves.
        task: that it serves.
    """

    def __init__(self, champions: ChampionCache, task: Task) -> None:
        self._champions = champions
        self._task = task

    def __call__(self, picture: Picture) -> Answer:
        """What the champion says."""
        return looked(*self._champions.predictor(self._task.name), picture)


@dataclass(frozen=True, slots=True)
class SentLook:
    """Looks with a model whose files travel with it, each process of a cluster opens them once.

    Attributes:
        version: of the model.
        origin: name of its folder, which tells versions of one number apart.
        task: that it is for.
        files: by name, of its folder and of those that it is compared with.
        device: where networks run there.
        batch_size: slices in one forward pass.
        uncertainty: what it is read from.
    """

    version: int
    origin: str
    task: Task = field(compare=False)
    files: Sequence[Mapping[str, bytes]] = field(compare=False, repr=False)
    device: str
    batch_size: int
    uncertainty: UncertaintyConfig

    @classmethod
    def of(cls, services: Services, task: Task, model: ModelVersion) -> "SentLook":
        """With a version of the registry and what the settings compare it with."""
        folders = [model.folder, *compared_folders(services, task, model)[: services.settings.uncertainty.samples]]
        files = [{path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in folders]
        inference = services.settings.inference
        where = (inference.device, inference.batch_size, services.settings.uncertainty)
        return cls(model.version, model.folder.name, task, files, *where)

    def __call__(self, picture: Picture) -> Answer:
        """What the model says."""
        return looked(_opened(self), self.version, picture)


@lru_cache(maxsize=1)
def _opened(look: SentLook) -> "Predictor":
    from lib.inference.sampled import load_sampled

    with tempfile.TemporaryDirectory(prefix="model-") as place:
        folders = []
        for number, files in enumerate(look.files):
            folders.append(Path(place) / str(number))
            folders[-1].mkdir()
            for name, content in files.items():
                (folders[-1] / name).write_bytes(content)
        return load_sampled(folders[0], folders[1:], look.task, look.device, look.batch_size, look.uncertainty)


def looked(predictor: "Predictor", version: int, picture: Picture) -> Answer:
    """What a model says of a picture; what goes wrong is told, so that one series does not keep others from scores."""
    if picture.volume is None:
        return Answer(picture.series_uid, version, Said(error=picture.error), "images", picture.instances)
    try:
        found = predictor.predict(picture.volume)
    except Exception as error:
        logger.exception("version %d cannot score series %s", version, picture.series_uid)
        return Answer(picture.series_uid, version, Said(error=_words(error)), _cause(error), picture.instances)
    said = Said(dict(found.scores), kept_values(found), found.embedding)
    return Answer(picture.series_uid, version, said, instances=picture.instances)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _cause(error: Exception) -> Cause:
    """Whether memory, device or the look itself is to blame for a prediction that failed."""
    from lib.inference.devices import is_device_failure, is_out_of_memory

    if is_out_of_memory(error):
        return "memory"
    return "device" if is_device_failure(error) else "look"
