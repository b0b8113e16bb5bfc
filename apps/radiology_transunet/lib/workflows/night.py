"""The unattended night: at a time of day the trainings that are due are asked for.

Whoever asks, and how often, a task has one open training: the ledger refuses a second one to every process and machine.
A worker that trains beats; when it dies, its lease runs out and another worker goes on with the training.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import tzinfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from lib.core.errors import LabelError
from lib.workflows.due import due
from lib.workflows.retrain import request_retrain
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

SCHEDULE = "schedule"
LATE_S = 3600
"""A machine that slept through the time of day starts the night up to so many seconds late."""


def start_night(services: Services) -> list[int]:
    """Ask for the training of every served task that is due; a task that cannot be judged leaves the others alone."""
    started = []
    for task in services.tasks.values():
        try:
            answer = due(services, task)
            if answer.is_due:
                started.append(request_retrain(services, task, actor=SCHEDULE))
        except LabelError as error:
            logger.error("task %s: whether a training is due cannot be told: %s", task.name, error)
            continue
        logger.info("task %s: training is %s: %s", task.name, "due" if answer.is_due else "not due", answer.why)
    return started


@contextmanager
def every_night(services: Services) -> Iterator[None]:
    """While the block runs, start what is due each day at `retrain.at`, local time; without one nothing happens."""
    at = services.settings.retrain.at
    if not at:
        yield
        return
    scheduler = BackgroundScheduler()
    scheduler.add_job(start_night, each_day(at), [services], misfire_grace_time=LATE_S, coalesce=True, max_instances=1)
    scheduler.start()
    logger.info("trainings that are due start each day at %s local time", at)
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)


def each_day(at: str, zone: tzinfo | None = None) -> CronTrigger:
    """Fires once a day.

    Args:
        at: HH:MM.
        zone: whose time that is; None = this machine's.
    """
    hour, minute = (int(part) for part in at.split(":"))
    return CronTrigger(hour=hour, minute=minute, timezone=zone)
