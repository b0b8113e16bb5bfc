"""Filling the demo's archive: patients get their splits, then each case is made and stored once."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lib.core.errors import Conflict, LabelError

if TYPE_CHECKING:
    from lib.demo.cohort import CohortCase
    from lib.workflows.services import Services

logger = logging.getLogger(__name__)

DONE_FILE = "uploaded"
GATE_SPLIT = "promotion"


class Upload(threading.Thread):
    """Stores the cohort in the background: labelled cases first, the gate's last, which a first training does not need.

    Args:
        services: the rooms.
        cohort: what to store.
        folder: remembers which cases were stored completely, so that a second run is quick.

    Attributes:
        stored: number of cases that are in the archive.
        error: why it ended early, None when it did not.
    """

    def __init__(self, services: "Services", cohort: "Sequence[CohortCase]", folder: Path) -> None:
        super().__init__(name="upload", daemon=True)
        self._services = services
        self._cohort = sorted(cohort, key=lambda case: (case.split == GATE_SPLIT, not case.labelled))
        self._done_file = folder / DONE_FILE
        self._stop_asked = threading.Event()
        self.stored = 0
        self.error: LabelError | None = None

    def run(self) -> None:
        """Store case after case."""
        try:
            assign_splits(self._services, self._cohort)
            done = self._read_done()
            for case in self._cohort:
                if self._stop_asked.is_set():
                    return
                if case.series_uid not in done:
                    self._store(case)
                self.stored += 1
        except LabelError as error:
            self.error = error
        except Exception as error:
            logger.exception("the upload failed unexpectedly")
            self.error = LabelError(f"the upload failed: {type(error).__name__}: {error}")

    def stop(self) -> None:
        """Let it end after the case in hand."""
        self._stop_asked.set()

    def _store(self, case: "CohortCase") -> None:
        from lib.demo.cohort import case_files

        files = case_files(case)
        self._services.archive.store(files.instances)
        done = [case.series_uid]
        if case.labelled and files.segmentation is None:
            record_nothing_found(self._services, case)
            done.append(case.seg_series_uid)
        with self._done_file.open("a", encoding="utf-8") as file:
            file.write("\n".join(done) + "\n")

    def _read_done(self) -> set[str]:
        """Series that were stored completely and are still there, with their labels."""
        noted = set(self._done_file.read_text(encoding="utf-8").split()) if self._done_file.is_file() else set()
        there = {header.series_uid for header in self._services.archive.series()}
        wanted = {case.series_uid: {case.series_uid} for case in self._cohort}
        for case in self._cohort:
            if case.labelled:
                wanted[case.series_uid].add(case.seg_series_uid)
        return {
            uid for uid, parts in wanted.items() if uid in noted and parts - {uid} <= there | noted and uid in there
        }


def record_nothing_found(services: "Services", case: "CohortCase") -> None:
    """A label without voxels has no SEG: the ledger records that a person found nothing.

    The data set says so itself: where the task expects something, the label is released by its author.
    """
    import numpy as np

    from lib.core.values import Mask
    from lib.demo.cohort import AUTHOR
    from lib.workflows.presegment import load_series
    from lib.workflows.review import accept, submit_mask

    task, source = services.task(), load_series(services, case.series_uid)
    nothing = Mask(np.zeros(source.geometry.shape, np.uint8), source.geometry, task.schema)
    label = submit_mask(services, task, source, nothing, AUTHOR)
    if services.ledger.annotations.get(label).is_held:
        accept(services, label, AUTHOR)


def assign_splits(services: "Services", cohort: "Sequence[CohortCase]") -> None:
    """Fix who is held out before the first image arrives; a patient who has a split already keeps it."""
    from lib.ledger.pseudonym import pseudonym

    for patient_id, split in {case.patient_id: case.split for case in cohort}.items():
        try:
            services.ledger.series.assign_split(pseudonym(patient_id, services.key), split, "demo")
        except Conflict as error:
            logger.warning("%s: %s", patient_id, error)
