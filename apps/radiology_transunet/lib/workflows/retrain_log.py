"""The run of a retraining, in the registry beside the version that it made."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lib.ledger.rows import JobRow
from lib.registry.tracking import RUNS_NAME, RunLog
from lib.training.config import FitConfig
from lib.workflows.casecache import LazyCases
from lib.workflows.retrain_notes import note_tags
from lib.workflows.runrecord import Training, log_training
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.training.fit import FitResult


def log_retraining(
    services: Services,
    job: JobRow,
    config: FitConfig,
    fitted: "FitResult",
    cases: tuple[LazyCases, LazyCases],
    model: Path,
    tell: Callable[[float, str], None],
    share: float,
) -> None:
    """Write a retraining down; a registry that refuses is a warning and ends nothing.

    Args:
        services: the rooms.
        job: that it is done for.
        config: of the training.
        fitted: what it ended with.
        cases: learned from, and measured on; each is read once more.
        model: folder of what was made.
        tell: called between cases; raises Stopped when the job is to end.
        share: of the whole job that is done by now.

    Raises:
        Stopped: because of `tell`; the model is finished, and the next attempt goes on without a record.
    """
    settings = services.settings
    log = RunLog(settings.registry.located(settings.var), settings.var / RUNS_NAME)
    device = settings.inference.device
    name, tags = f"retraining, job {job.id}", {"job": str(job.id), **note_tags(services, job.id)}
    training = Training(name, services.task(job.task), config, fitted, *cases, device, tags)
    log_training(log, training, model, lambda: tell(share, "writing the run down"))
