"""The unattended night: once for each scheduled moment, the trainings that are due are asked for.

Every worker looks at the scheduled moment, when it starts and every few minutes for `retrain.grace_h` hours after the
moment: one that was down, and one whose ledger or registry was away, is late and loses no night. Which of them starts
it is decided by the ledger, task by task: whoever takes the moment's lease starts, and once it is done, nobody does
again, whatever the training came to. A holder that dies before is followed by another one.

Whoever asks, and how often, a task has one open training: the ledger refuses a second one to every process and machine.
A worker that trains beats; when it dies, its lease runs out and another worker goes on with the training.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from lib.core.errors import LabelError
from lib.taskfile import Task
from lib.workflows.due import due
from lib.workflows.retrain import request_retrain
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

SCHEDULE = "schedule"
LEASE_S = 600.0
"""Asking takes seconds; a holder that is silent for so long has died."""
LOOK_EVERY_S = 300
IN_TIME = timedelta(minutes=1)
"""A worker that runs at the scheduled moment looks within this time."""


def start_night(services: Services, moment: str, holder: str) -> list[int]:
    """Ask for the training of every served task that is due and whose night nobody has started; the jobs' ids.

    A task that cannot be judged leaves the others alone, and is looked at again when its lease is over.

    Args:
        services: the rooms.
        moment: the scheduled one, in the same words for all workers.
        holder: name of this worker.
    """
    started = []
    for task in services.tasks.values():
        try:
            if services.ledger.nights.take(task.name, moment, holder, LEASE_S):
                started += _start(services, task)
                services.ledger.nights.finish(task.name, moment, holder)
        except LabelError as error:
            logger.error("task %s: whether a training is due cannot be told: %s", task.name, error)
    return started


def _start(services: Services, task: Task) -> list[int]:
    """Ask for the task's training when it is due."""
    answer = due(services, task)
    logger.info("task %s: training is %s: %s", task.name, "due" if answer.is_due else "not due", answer.why)
    return [request_retrain(services, task, actor=SCHEDULE)] if answer.is_due else []


def look(services: Services, holder: str, now: datetime) -> list[int]:
    """Start the night of the last scheduled moment unless it is too long ago; the jobs' ids.

    Args:
        services: the rooms.
        holder: name of this worker.
        now: local time, without a zone.
    """
    config = services.settings.retrain
    moment = last_moment(config.at, now)
    late_s = now.timestamp() - moment.timestamp()  # a moment that the clock skips in spring comes an hour later
    if late_s > max(timedelta(hours=config.grace_h), IN_TIME).total_seconds():
        return []
    return start_night(services, f"{moment:%Y-%m-%d %H:%M}", holder)


def last_moment(at: str, now: datetime) -> datetime:
    """The last time that a clock showed HH:MM, now included. Pure."""
    hour, minute = _parts(at)
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)


@contextmanager
def every_night(services: Services) -> Iterator[None]:
    """While the block runs, start what is due each day at `retrain.at`, local time; without one nothing happens."""
    config = services.settings.retrain
    if not config.at:
        yield
        return
    holder = f"{socket.gethostname()}:{os.getpid()}"

    def act() -> None:
        look(services, holder, datetime.now())  # what the clock on the wall shows

    once = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    scheduler = BackgroundScheduler()
    scheduler.add_job(act, each_day(config.at), **once)
    scheduler.add_job(act, IntervalTrigger(seconds=LOOK_EVERY_S), next_run_time=datetime.now().astimezone(), **once)
    scheduler.start()
    logger.info("trainings that are due start each day at %s local time, up to %g h late", config.at, config.grace_h)
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
    hour, minute = _parts(at)
    return CronTrigger(hour=hour, minute=minute, timezone=zone)


def _parts(at: str) -> tuple[int, int]:
    hour, minute = at.split(":")
    return int(hour), int(minute)
