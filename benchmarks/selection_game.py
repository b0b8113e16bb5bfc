"""What a game of simulated selection is played with, and what its rounds end with."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib.settings import Settings
from lib.taskfile import Task
from lib.training.data import Case
from selection_presets import Material


@dataclass(frozen=True, slots=True)
class Game:
    """What the streams of one seed have in common.

    Attributes:
        material: the set; the training block of its task is that of every fit.
        settings: of selection, queue and uncertainty.
        seed: of start set, draws and training.
        start: cases labelled at first.
        rounds: of choosing.
        per_round: cases chosen in each.
        device: that fits and predicts.
        folder: of the rounds.
    """

    material: Material
    settings: Settings
    seed: int
    start: int
    rounds: int
    per_round: int
    device: str
    folder: Path

    @property
    def task(self) -> Task:
        """What is learned."""
        return self.material.task

    def find(self, names: Iterable[str]) -> list[Case]:
        """Cases of the pool, by name."""
        known = {case.name: case for case in self.material.pool}
        return [known[name] for name in names]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy chose for the next round.

    Attributes:
        cases: names, in the order in which they are handed out.
        why: of each, in words.
        corrected_voxels: in which the drafts of these cases differ from the truth.
    """

    cases: tuple[str, ...]
    why: tuple[str, ...]
    corrected_voxels: int


@dataclass(frozen=True, slots=True)
class Round:
    """What a round ended with.

    Attributes:
        number: 0 for the start set.
        labels: cases labelled.
        cases: their names.
        dice: of each label, the mean over the held-out cases that show it; a label that is missed has 0.
        sites: of each site, the mean over the labels of such means.
        false_alarms: of each label that some held-out cases do not show, the share of those in which it is predicted.
        showing: of each label, the labelled cases that show it.
        foreground_voxels: of any label, in all labelled cases.
        corrected_voxels: in which drafts of the labelled cases had to be changed; the start set had no drafts.
        choices: by strategy; none after the last round.
        train_s: CPU seconds of the fit; also on the GPU's host.
        test_s: of measuring.
        choose_s: of predicting the pool and ranking it.
    """

    number: int
    labels: int
    cases: tuple[str, ...]
    dice: Mapping[str, float]
    sites: Mapping[str, float]
    false_alarms: Mapping[str, float]
    showing: Mapping[str, int]
    foreground_voxels: int
    corrected_voxels: int
    choices: Mapping[str, Choice]
    train_s: float
    test_s: float
    choose_s: float

    @classmethod
    def read(cls, path: Path) -> "Round":
        """The round of a file."""
        values = json.loads(path.read_text(encoding="utf-8"))
        choices = {name: Choice(**{**one, "cases": tuple(one["cases"])}) for name, one in values["choices"].items()}
        return cls(**{**values, "cases": tuple(values["cases"]), "choices": choices})
