"""The presets of the simulator, and the labelled sets that they are played on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from heads import ordered, read_split
from lib.core.labels import Code, Label
from lib.selection.strategies import STRATEGIES
from lib.taskfile import Task, load_task
from lib.training.data import Case
from rare_label import TASK, Finding, read_cases, task_with

OURS = "default"
WITHOUT_SAMPLES = ("bald", "disagreement")
"""Strategies that rank by what only samples of a network tell; the simulator plays with its single answer."""
LESION = Finding(Label("lesion", 3, (220, 60, 60), Code("52988006", "Lesion")), (3.0, 5.0), (0.7, 1.0), 99.5)
"""The rare label: bright; 600 steps miss the cyst of rare_label.py, even with it in 6 of 15 cases."""
FIRST_SITE, SECOND_SITE = "first site", "second site"
SECOND_SHARE, HELD_OUT_SECOND_SHARE = 0.2, 0.5
"""Shares of the heads that the second site has scanned."""


@dataclass(frozen=True, slots=True)
class Preset:
    """What is played.

    Attributes:
        data: name in `SETS`.
        strategies: that choose.
        others: of them, what the default is compared with, Holm's correction being over these.
        focus: label or site whose Dice is judged beside the mean; None = none.
        seeds: paired: the same set, start and draws of training for all strategies.
        start: cases labelled at first.
        rounds: of choosing.
        per_round: cases chosen in each.
        steps: of each fit, from fresh weights.
        is_planned: whether the comparisons were planned; else everything is exploratory and nothing is judged.
        error: largest p by Holm that counts as shown; less where the same held-out heads were looked at before.
    """

    data: str
    strategies: tuple[str, ...]
    others: tuple[str, ...]
    focus: str | None
    seeds: int = 7
    start: int = 3
    rounds: int = 4
    per_round: int = 3
    steps: int = 600
    is_planned: bool = True
    error: float = 0.05

    @property
    def figures(self) -> tuple[str, ...]:
        """By which the default is judged: of `selection_figures.figures_of`."""
        return ("aubc",) if self.focus is None else ("aubc", "focus")


_FOREGROUND = ("random", "foreground_random")
_STRATA = ("random", "stratified_random")
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "rare": Preset("rare", (*_FOREGROUND, "entropy", OURS), _FOREGROUND, LESION.label.name, error=0.025),
        "plain": Preset("plain", (*_FOREGROUND, "entropy", OURS), _FOREGROUND, None),
        "two-sites": Preset("two-sites", (*_STRATA, "entropy", OURS), _STRATA, SECOND_SITE),
        "all": Preset(
            "rare",
            tuple(name for name in STRATEGIES if name not in WITHOUT_SAMPLES),
            _FOREGROUND,
            LESION.label.name,
            seeds=2,
            is_planned=False,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Material:
    """A labelled set, divided by patients.

    Attributes:
        task: what is learned.
        pool: cases that may be chosen; their masks are the oracle.
        test: cases that nothing but the figures looks at.
        sites: of every case, by its name.
    """

    task: Task
    pool: Sequence[Case]
    test: Sequence[Case]
    sites: Mapping[str, str]


def task_of(preset: Preset) -> Task:
    """What is learned in a preset."""
    return task_with(LESION) if preset.data == "rare" else load_task(TASK)


def rare(task: Task, data: Path, split: str, seed: int) -> Material:
    """Hippocampi, a tenth of the heads with a lesion; of the held-out heads every second one."""
    pool, test = read_cases(data, split, seed, task, LESION)
    return Material(task, pool, test, {case.name: FIRST_SITE for case in (*pool, *test)})


def plain(task: Task, data: Path, split: str, seed: int) -> Material:
    """Hippocampi as they are."""
    pool, test = read_split(data, split, task)
    return Material(task, pool, test, {case.name: FIRST_SITE for case in (*pool, *test)})


def two_sites(task: Task, data: Path, split: str, seed: int) -> Material:
    """Hippocampi, a fifth of the heads with inverted contrast, as of a second site; of the held-out ones every second.

    Which ones follows from the seed, of those held out they are always the same.
    """
    pool, test = read_split(data, split, task)
    second = moved(pool, SECOND_SHARE, f"second site {seed}") | moved(test, HELD_OUT_SECOND_SHARE, "second site")
    clip = task.preprocess.clip_percentiles
    cases = [[inverted(case, clip) if case.patient in second else case for case in some] for some in (pool, test)]
    sites = {case.name: SECOND_SITE if case.patient in second else FIRST_SITE for case in (*pool, *test)}
    return Material(task, *cases, sites)


def moved(cases: Sequence[Case], share: float, salt: str) -> set[str]:
    """The patients of a share of the heads; which ones follows from the salt."""
    heads = ordered(sorted({int(case.patient) for case in cases}), salt)
    return {str(head) for head in heads[: round(share * len(heads))]}


def inverted(case: Case, clip: tuple[float, float]) -> Case:
    """Bright for dark between the percentiles that the task clips at: fluid is bright, as with T2 weighting."""
    array = case.volume.array
    low, high = np.percentile(array, clip)
    turned = (low + high - np.clip(array, low, high)).astype(np.float32)
    return replace(case, volume=replace(case.volume, array=turned))


SETS: Mapping[str, Callable[[Task, Path, str, int], Material]] = MappingProxyType(
    {"rare": rare, "plain": plain, "two-sites": two_sites}
)
