"""What `train` shows: a bar a stage while it runs, a table of the figures when it is done."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from lib.training.config import FitConfig
    from lib.training.fit import FitProgress
    from lib.training.measure import CaseMetrics
    from lib.workflows.casefigures import LabelMeans

STAGES = {"prepare": "preparing", "train": "training", "validate": "measuring"}
NOTHING = "-"
ENOUGH_STEPS = 0.5
"""Share of the steps below which a training that its time ended is told of."""


def bars() -> Progress:
    """An empty display; `FitBars` fills it."""
    columns = TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[words]}"), TimeElapsedColumn()
    return Progress(*columns)


class FitBars:
    """Moves one bar a stage; called with each report of a training.

    Args:
        progress: where the bars are.
        config: of the training, from which the phase of learning follows.
    """

    def __init__(self, progress: Progress, config: "FitConfig") -> None:
        self._progress = progress
        self._config = config
        self._best: float | None = None
        self._stage: str | None = None
        self._bars = {
            stage: progress.add_task(words, start=False, total=1.0, words="", visible=False)
            for stage, words in STAGES.items()
        }

    def __call__(self, now: "FitProgress") -> None:
        """Show where the training is."""
        if now.dice is not None:
            self._best = now.dice if self._best is None else max(self._best, now.dice)
        words = fit_words(now, self._config, self._best) if now.stage == "train" else ""
        self._begin(now.stage)
        self._progress.update(self._bars[now.stage], completed=now.share, words=words, visible=True)

    def _begin(self, stage: str) -> None:
        """Let the clock of a stage's bar run, and no other."""
        if stage == self._stage:
            return
        if self._stage is not None:
            self._progress.stop_task(self._bars[self._stage])
        self._progress.start_task(self._bars[stage])
        self._stage = stage


def fit_words(now: "FitProgress", config: "FitConfig", best: float | None) -> str:
    """Phase, step, loss, Dice of the last and of the best validation, time left.

    Args:
        now: of the stage "train".
        config: of the training.
        best: highest Dice so far.
    """
    parts = ["warming up" if now.share < config.warmup else "learning", f"step {now.step} of {now.steps}"]
    parts += [f"loss {now.loss:.3f}"] if now.loss is not None else []
    if now.dice is not None:
        parts.append(f"Dice {now.dice:.3f}" + (f" (best {best:.3f})" if best is not None and best > now.dice else ""))
    parts += [f"{clock(now.left_s)} left"] if now.left_s is not None else []
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def figures_table(
    cases: "Sequence[CaseMetrics]", labels: Sequence[str], common: Sequence[str], what: str = "held-out cases"
) -> Table:
    """Means over the cases by label, and over the labels.

    Args:
        cases: all metrics of each case.
        labels: names, in order.
        common: names of the labels that count in the mean.
        what: the cases are.
    """
    from lib.core.metrics import DEFAULT_TOLERANCE_MM
    from lib.workflows.casefigures import means_by_label

    columns = "label", "cases", "Dice", "HD95 mm", f"NSD at {DEFAULT_TOLERANCE_MM:g} mm", "volume error"
    table = Table(*columns, title=f"{len(cases)} {what}")
    means = means_by_label(cases, labels)
    for name, row in means.items():
        table.add_row(name, str(row.cases), *_figures(row))
    if len(common) > 1:
        overall = [_mean([getattr(means[name], what) for name in common]) for what in ("dice", "hd95_mm", "nsd")]
        errors = _mean([means[name].volume_error for name in common])
        table.add_row("mean", "", _shown(overall[0]), _shown(overall[1], 2), _shown(overall[2]), _percent(errors))
    return table


def calibration_line(cases: "Sequence[CaseMetrics]") -> str:
    """How far the probabilities can be believed, in words."""
    from lib.workflows.casefigures import mean_calibration_error

    return f"calibration error {_shown(mean_calibration_error(cases))} (0 = a voxel said to be 90 % sure is so 9 in 10)"


def budget_note(steps: int, config: "FitConfig") -> str | None:
    """What to change after a training whose time ended long before its steps, or None.

    Args:
        steps: that it took.
        config: of the training.
    """
    if config.max_minutes is None or steps >= ENOUGH_STEPS * config.steps:
        return None
    return (
        f"{steps} of {config.steps} steps: {config.max_minutes:g} minutes allowed no more here; allow more with "
        "--max-minutes, or let a step cost less: coarser preprocess.spacing_mm, smaller training.batch_size or patch"
    )


def _figures(row: "LabelMeans") -> tuple[str, str, str, str]:
    """Dice, HD95, NSD and volume error; cases without a distance are named beside it."""
    distance = _shown(row.hd95_mm, 2) + (f" ({row.missed} without)" if row.missed else "")
    return _shown(row.dice), distance, _shown(row.nsd), _percent(row.volume_error)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _shown(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f} %"
