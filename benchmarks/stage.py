"""What the nights of a label stream share, what one ends with, and the versions that they have made so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from lib.registry.versions import ModelVersion
from lib.settings import Settings
from lib.taskfile import Task
from lib.training.config import FitConfig
from lib.training.data import Case
from lib.workflows.promotion import PROMOTED
from lib.workflows.services import Services

MEAN = "mean_dice"
"""Under which a version has its mean Dice on the calibration patients, as in the product; the line does not read it."""
SEEDS_APART = 1000


@dataclass(frozen=True, slots=True)
class Stage:
    """What the nights of one stream have in common.

    Attributes:
        task: what is learned; its training block is that of a fit from scratch.
        settings: recipe and gate.
        peer: the training block of MONAI Label's way.
        peer_looks: its validations in a night.
        counts: accepted labels at each night.
        pool: cases in the order in which they are accepted.
        calibration: cases that the recipe tunes on.
        promotion: cases that the gate judges on.
        test: cases that nothing but the figures looks at.
        seed: of the stream; the three ways draw alike.
        folder: of its nights.
    """

    task: Task
    settings: Settings
    peer: FitConfig
    peer_looks: int
    counts: tuple[int, ...]
    pool: Sequence[Case]
    calibration: Sequence[Case]
    promotion: Sequence[Case]
    test: Sequence[Case]
    seed: int
    folder: Path

    def model(self, number: int) -> Path:
        """The folder of a night's model."""
        return self.folder / f"model-{number}"

    def fit_seed(self, number: int) -> int:
        """The seed of a night's training."""
        return SEEDS_APART * self.seed + number


@dataclass(frozen=True, slots=True)
class Night:
    """What a night ended with.

    Attributes:
        number: 1, 2, ...; also the version of the model that it made.
        labels: accepted so far.
        steps: of its training.
        train_s: CPU seconds of its training, with the validations that choose weights.
        judge_s: CPU seconds of holding the model against the head of the line, both measured anew, and before the gate.
        made: Dice of its model on the test cases.
        served: Dice on the test cases of the model that serves afterwards.
        promoted: whether that is its model.
        reason: why, in words.
        first: Dice on the test cases of the weights at the first validation, where these serve at once.
        mean: Dice of its model on the calibration cases, where it was measured.
        tags: of the version.
        exam: figures on the promotion cases, where the gate looked: Dice (cases, labels) and the calibration error.
    """

    number: int
    labels: int
    steps: int
    train_s: float
    judge_s: float
    made: float
    served: float
    promoted: bool
    reason: str = ""
    first: float | None = None
    mean: float | None = None
    tags: Mapping[str, str] | None = None
    exam: Mapping[str, Any] | None = None


class Shelf:
    """As much of a registry as the recipe asks for: the versions of one stream.

    Args:
        stage: of the stream.
        nights: done so far.
    """

    def __init__(self, stage: Stage, nights: Sequence[Night]) -> None:
        self._stage = stage
        self._champion = champion_of(nights)
        self._served = [SimpleNamespace(version=night.number, verdict=PROMOTED) for night in nights if night.promoted]
        self._versions: dict[int, ModelVersion] = {}
        for night in nights:
            self.add(night.number, night.mean, night.tags or {})

    def add(self, number: int, mean: float | None, tags: Mapping[str, str]) -> ModelVersion:
        """A new version, whose folder is there."""
        figures = {} if mean is None else {MEAN: mean}
        made_at, is_champion = datetime.fromtimestamp(number, UTC), number == self._champion
        folder, name = self._stage.model(number), self._stage.task.name
        self._versions[number] = ModelVersion(name, number, folder, made_at, figures, dict(tags), is_champion)
        return self._versions[number]

    def list(self, task: str) -> tuple[ModelVersion, ...]:
        """All versions, the newest first."""
        return tuple(self._versions[number] for number in sorted(self._versions, reverse=True))

    def get(self, task: str, version: int) -> ModelVersion:
        """One version."""
        return self._versions[version]

    def path(self, task: str, version: int) -> Path:
        """Where its model lies."""
        return self.get(task, version).folder

    def champion(self, task: str) -> ModelVersion | None:
        """The version that serves."""
        return None if self._champion is None else self._versions[self._champion]

    def note(self, task: str, version: int, name: str, text: str) -> None:
        """Remember something with a version."""
        found = self._versions[version]
        self._versions[version] = replace(found, tags={**found.tags, name: text})

    def services(self) -> Services:
        """The rooms as the recipe sees them."""
        models = SimpleNamespace(list=lambda task, limit: self._served)
        rooms = SimpleNamespace(registry=self, settings=self._stage.settings, ledger=SimpleNamespace(models=models))
        return cast(Services, rooms)


def champion_of(nights: Sequence[Night]) -> int | None:
    """The night whose model serves; None before the first."""
    return next((night.number for night in reversed(nights) if night.promoted), None)
