"""`transunet-label worker`: the background process."""

import logging
import os
import signal
import threading


def worker() -> None:
    """Follow the archive, make drafts, train: everything that needs no annotator.

    `serve` starts one unless told --no-worker; more may run beside it, also on other machines on one PostgreSQL ledger.

    Example: transunet-label worker
    """
    from lib.cli.context import current_services
    from lib.inference.devices import set_threads
    from lib.workflows.worker import Worker

    services = current_services()
    set_threads(services.settings.inference.threads)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if not Worker(services, stop).run():
        logging.shutdown()
        os._exit(0)  # a thread inside torch or a slow answer would delay, or crash, an orderly end
