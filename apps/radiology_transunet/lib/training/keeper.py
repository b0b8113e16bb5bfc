"""When a run's checkpoint is written, and where a run goes on."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from lib.training.checkpoint import Checkpoint
from lib.training.distributed import ALONE, Group
from lib.training.run import Run

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Keeper:
    """The checkpoints of one run.

    Attributes:
        folder: where they lie.
        key: of the run's inputs.
        every_steps: steps between two of them.
        every_s: seconds of the run's clock after which one is due in any case.
        group: the run's processes; the first one reads and writes.
        kept_s: the clock at the last one.
        found: where the run goes on, until it does.
        notes: what a run's result says besides its own, in words: which checkpoints were damaged.
    """

    folder: Path
    key: str
    every_steps: int
    every_s: float
    group: Group = ALONE
    kept_s: float = 0.0
    found: Checkpoint | None = None
    notes: list[str] = field(default_factory=list)

    def find(self) -> Checkpoint | None:
        """The checkpoint that the run goes on from, or None: from its beginning."""
        self.found = self.group.from_leader(lambda: Checkpoint.load(self.folder, self.key, self.note))
        self.kept_s = 0.0 if self.found is None else self.found.seconds
        return self.found

    def resume(self, run: Run, again: bool = False) -> None:
        """Put a run at step 0 where the last checkpoint left it.

        Args:
            run: to go on.
            again: whether an earlier attempt failed, after which all processes have to look for it.
        """
        last = (None if again else self.found) or self.find()
        self.found = None
        if last is not None:
            run.resume(last)
        run.notes = list(dict.fromkeys([*run.notes, *self.notes]))

    def keep(self, run: Run, seconds: float, now: bool = False) -> None:
        """Write a checkpoint where one is due.

        Args:
            run: after a step.
            seconds: the run's clock.
            now: whether it is due whatever steps and clock say.

        Raises:
            DiskFull: no room; the last ones are still there.
        """
        if not self.group.leads:
            return
        if now or run.step % self.every_steps == 0 or seconds - self.kept_s >= self.every_s:
            run.checkpoint(self.key, seconds).save(self.folder)
            self.kept_s = seconds

    def note(self, said: str) -> None:
        """Put something on record that every attempt of the run meets; the first process says it in its log."""
        if self.group.leads:
            log.warning(said)
        self.notes.append(said)
