"""Does trainings in processes that kill themselves (SIGKILL) at any moment that is asked for.

    python killed_retrain.py TASK_FILE

Each line on standard input asks for one process, which takes the training that waits in a state folder and works on it:

    {"var": "/tmp/var", "phase": "fitting", "calls": 4711, "ahead_s": 61.0}

It ends at that many calls of Python functions after the phase began, or with the first call of a later phase, and
otherwise when the training is over. The answer is a line with its exit status and, where it came to its end, the calls
that it counted in each phase and what it imported. Processes are forked from this one, which imports what the ones
before have imported: each starts at once.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType

from lib.ledger.book import utc_now
from lib.ledger.ledger import Ledger
from lib.registry.registry import Registry
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows.services import Services
from rooms import FileArchive

PHASES: Mapping[str, str] = {
    "collecting": "lib.workflows.collect:collect",
    "fitting": "lib.training.fit:fit",
    "measuring": "lib.training.measure:measure",
    "saving": "lib.inference.model:save_model",
    "noting the run": "lib.workflows.runrecord:log_training",
    "registering": "lib.registry.registry:Registry.register",
    "judging": "lib.workflows.judging:decide",
    "promoting": "lib.workflows.promotion:promote",
    "switching": "lib.registry.registry:Registry.promote",
    "asking for drafts": "lib.workflows.presegment:enqueue_drafts",
    "reporting": "lib.workflows.morning:morning_report",
    "finishing": "lib.ledger.jobs:Jobs.finish",
}
"""Each begins with the first call of its function, in this order."""
NAMES = tuple(PHASES)
LEASE_S = 60.0
RECIPE = {"keep": "0.5", "steps": "1", "rate": "1", "validations": "4", "reference_every": "0"}
GATE = {"min_patients": "3", "alpha": "0.2", "latency_factor": "1000000", "calibration_slack": "0.99", "margin": "0.99"}


def services_of(var: Path, task_file: Path, ahead_s: Callable[[], float] = lambda: 0.0) -> Services:
    """Rooms in `var` with an archive of files; the ledger's clock is ahead, so that leases of the dead have run out."""
    conf = {"var": str(var), "tasks": str(task_file), "inference.device": "cpu", "retrain.threads": "1"}
    conf |= {"worker.attempts": "99", "retrain.min_labels": "2"}
    conf |= {f"recipe.{name}": value for name, value in RECIPE.items()}
    conf |= {f"gate.{name}": value for name, value in GATE.items()}
    settings = load_settings(list(conf.items()), environ={})
    task = load_task(task_file)
    ledger = Ledger(settings.ledger.resolved_url(var), clock=lambda: utc_now() + timedelta(seconds=ahead_s()))
    registry = Registry(settings.registry.located(var))
    archive = FileArchive(var / "archive")
    return Services(settings, {task.name: task}, archive, ledger, registry, b"k" * 32)  # type: ignore[arg-type]


class Moments:
    """Counts the calls of each phase, and ends the process at one of them. For `sys.setprofile`.

    Args:
        phase: in which the process ends.
        calls: after which it does; with the phase if it has fewer.
    """

    def __init__(self, phase: str = "", calls: int = 0) -> None:
        self.counts = dict.fromkeys(NAMES, 0)
        self._deadly = NAMES.index(phase) if phase else len(NAMES)
        self._calls = calls
        self._now = -1
        self._begin: dict[CodeType, int] = {_code(PHASES[name]): index for index, name in enumerate(NAMES)}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        self._now = max(self._now, self._begin.get(frame.f_code, -1))
        if self._now < 0:
            return
        self.counts[NAMES[self._now]] += 1
        if self._now > self._deadly or (self._now == self._deadly and self.counts[NAMES[self._now]] > self._calls):
            os.kill(os.getpid(), signal.SIGKILL)


def _code(place: str) -> CodeType:
    module, _, path = place.partition(":")
    found = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found.__code__  # type: ignore[attr-defined, no-any-return]


def say(**values: object) -> None:
    """Answer with a line."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def work(task_file: Path, request: Mapping[str, object]) -> None:
    """Take the training that waits, as a worker does, and work on it."""
    from lib.workflows.retrain_job import work_on

    before = set(sys.modules)
    ahead_s = float(str(request["ahead_s"]))
    services = services_of(Path(str(request["var"])), task_file, lambda: ahead_s)
    job = services.ledger.jobs.take(("retrain",), f"process {os.getpid()}", LEASE_S)
    assert job is not None
    moments = Moments(str(request.get("phase", "")), int(str(request.get("calls", 0))))
    sys.setprofile(moments)
    row = work_on(services, job)
    sys.setprofile(None)
    imported = sorted(set(sys.modules) - before)
    say(counts=moments.counts, state=row.state, error=row.error, imported=imported)


def serve(task_file: Path) -> None:
    """Answer each line of standard input with a process's end."""
    import torch

    from lib.registry.client import load

    torch.set_num_threads(1)
    load()
    for place in PHASES.values():
        _code(place)
    import_module("lib.workflows.retrain_job")
    say(ready=os.getpid())
    for line in sys.stdin:
        request = json.loads(line)
        for name in request.get("imported", ()):
            with suppress(Exception):
                import_module(name)
        child = os.fork()
        if child == 0:
            try:
                work(task_file, request)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        say(status=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
