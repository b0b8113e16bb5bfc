"""Runs the worker's jobs in a process that kills itself (SIGKILL) before or after one named step.

    python killed_at.py SETTINGS_JSON STEP before|after [NTH]

STEP is a path from the services, for example archive.store or ledger.outbox.done.
"""

import json
import os
import signal
import sys

from lib.settings import load_settings
from lib.workflows import presegment
from lib.workflows.services import Services, open_services
from loop import settle


def kill_at(services: Services, step: str, when: str, nth: int = 1) -> None:
    """Replace the step by one that ends this process at its nth call, before or after it has done its work."""
    *path, name = step.split(".")
    owner = services
    for part in path:
        owner = getattr(owner, part)
    real = getattr(type(owner), name)
    calls = []

    def deadly(*args, **kwargs):  # args[0] is the owner
        calls.append(1)
        if when == "before" and len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if when == "after" and len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(type(owner), name, deadly)  # the rooms are frozen, their classes are not


if __name__ == "__main__":
    conf, step, when, *nth = sys.argv[1:]
    presegment.OUTBOX_CLAIM_S = 1.0  # what the dead process claimed is free after this; the test need not wait longer
    services = open_services(load_settings(json.loads(conf), {}))
    kill_at(services, step, when, *map(int, nth))
    settle(services)
