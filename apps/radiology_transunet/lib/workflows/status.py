"""The installation at a glance, for `status` and for the start of a shift."""

from lib.core.errors import ArchiveUnavailable
from lib.workflows.fieldmetrics import field_report
from lib.workflows.services import Services


def overview(services: Services) -> dict[str, object]:
    """Plain values: the archive's state, counts of series, annotations and jobs, what serves each task."""
    ledger = services.ledger
    return {
        "archive": _archive(services),
        "state folder": str(services.settings.var),
        "series": ledger.series.counts(),
        "tasks": {name: _task(services, name) for name in services.tasks},
        "jobs": ledger.jobs.counts(),
        "outbox": f"{ledger.outbox.open_count()} waiting for the archive",
    }


def _archive(services: Services) -> str:
    try:
        return f"Orthanc {services.archive.check().version} at {services.archive.url}"
    except ArchiveUnavailable as error:
        return f"away: {error}"


def _task(services: Services, name: str) -> dict[str, object]:
    champion = services.registry.champion(name)
    return {
        "champion": f"version {champion.version}" if champion else "none yet: transunet-label retrain",
        "annotations": services.ledger.annotations.counts(name),
        "held back for a reviewer": len(services.ledger.annotations.held(name)),
        "handed out": len(services.ledger.queue.leases(name)),
        "drafts in the field": field_report(services, services.task(name)).short,
    }
