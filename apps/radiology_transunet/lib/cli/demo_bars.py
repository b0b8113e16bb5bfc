"""What people see while the demo gets ready: four bars; and how long each stage took."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from lib.cli.demo_standing import Standing
    from lib.demo.cohort import CohortCase
    from lib.ledger.rows import JobRow

STAGES: Mapping[str, str] = MappingProxyType(
    {
        "archive": "",
        "server": "archive",
        "worklist": "",
        "upload": "archive",
        "labels": "archive",
        "training": "labels",
        "drafts": "training",
        "total": "",
    }
)
"""Each stage with the one whose end it is measured from; "" is the start of the command."""

ROUND = 100
"""Steps of the training's bar."""


class Stopwatch:
    """Seconds at which stages ended.

    Args:
        started: `time.monotonic()` at the start of the command.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._ends: dict[str, float] = {}

    def passed(self, stage: str) -> None:
        """Note the end of a stage; only the first time counts."""
        self._ends.setdefault(stage, time.monotonic() - self._started)

    def has(self, stage: str) -> bool:
        """Whether a stage has ended."""
        return stage in self._ends

    def seconds(self) -> dict[str, float]:
        """How long each stage took that has ended."""
        ends = {"": 0.0, **self._ends}
        return {stage: ends[stage] - ends.get(since, 0.0) for stage, since in STAGES.items() if stage in ends}


class Bars:
    """The bars; entering shows them, leaving leaves their last state on the screen.

    Args:
        console: where to draw.
        cohort: the demo's cases.
    """

    def __init__(self, console: Console, cohort: "Sequence[CohortCase]") -> None:
        labelled = sum(case.labelled for case in cohort)
        name, count = TextColumn("{task.description}"), TextColumn("{task.fields[words]}")
        self._progress = Progress(name, BarColumn(), TimeElapsedColumn(), count, console=console)
        self._upload = self._progress.add_task("upload", total=len(cohort), words="")
        self._labels = self._progress.add_task("labels read", total=labelled, words="")
        self._training = self._progress.add_task("training", total=ROUND, words="waits for the labels", start=False)
        self._drafts = self._progress.add_task("drafts", total=len(cohort) - labelled, words="", start=False)

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show_labels(self, stored: int, standing: "Standing") -> None:
        """Draw how far upload and labels are."""
        total = self._progress.tasks[0].total or 0
        self._progress.update(self._upload, completed=stored, words=f"{stored} of {total:.0f} series")
        self._progress.update(self._labels, completed=standing.labelled, words=f"{standing.labelled} accepted")

    def show_training(self, job: "JobRow | None", standing: "Standing") -> None:
        """Draw how far training and drafts are; without a job an earlier model serves."""
        done = ROUND if job is None or job.state == "done" else job.progress * ROUND
        words = "an earlier model serves" if job is None else job.message or job.state
        self._begin(self._training)
        self._progress.update(self._training, completed=done, words="done" if job and done == ROUND else words)
        if done == ROUND:
            self._begin(self._drafts)
        self._progress.update(self._drafts, completed=standing.drafted, words=f"{standing.drafted} in the archive")

    def _begin(self, task: int) -> None:
        """Start a bar's clock once."""
        if not self._progress.tasks[task].started:
            self._progress.start_task(self._progress.tasks[task].id)
