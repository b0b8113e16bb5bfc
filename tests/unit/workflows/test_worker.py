"""The worker's loops, without an archive behind them."""

import threading

import pytest

from lib.core.errors import RegistryUnavailable
from lib.workflows import worker
from lib.workflows.models import ChampionCache
from lib.workflows.services import Services
from lib.workflows.worker import Worker

IDLE = ("_ingest", "_refresh", "_train", "_one_job")


def test_a_switch_that_another_process_is_stuck_in_ends_no_worker_and_is_completed_later(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, tries, trained = threading.Event(), [], threading.Event()

    def reconcile(rooms: Services) -> int:
        tries.append(rooms)
        if len(tries) < 3:
            assert trained.wait(20)  # the other duties do not wait for it
            raise RegistryUnavailable("another process holds it")
        stop.set()
        return 0

    for name in IDLE:
        monkeypatch.setattr(Worker, name, lambda self, *runner: trained.set() or False)
    monkeypatch.setattr(ChampionCache, "warm", lambda self: None)
    monkeypatch.setattr(worker, "deliver_outbox", lambda rooms: 0)
    monkeypatch.setattr(worker, "reconcile_promotions", reconcile)
    monkeypatch.setattr(worker, "BACKOFF_S", 0.01)
    last_resort = threading.Timer(30, stop.set)
    last_resort.start()
    assert Worker(services, stop).run()
    last_resort.cancel()
    assert tries == [services] * 3
    assert "switches: another process holds it; trying again every 0.01 s" in caplog.text
