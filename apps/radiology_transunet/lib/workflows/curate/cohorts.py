"""Cohorts as people fill them: by hand, or with what a search found."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from lib.core.errors import Conflict
from lib.ledger.curationrows import CohortRow
from lib.workflows.services import Services


def put(services: Services, name: str, series_uids: Sequence[str], actor: str) -> int:
    """Put series into a cohort, which is made when there is none of that name; how many were not in it.

    Raises:
        InvalidInput: a name that is none.
        NotFound: series that the ledger does not know; the cohort stays as it was.
    """
    curation = services.ledger.curation
    if name not in {row.name for row in curation.cohorts()}:
        with suppress(Conflict):  # somebody made it in this very moment
            curation.create(name, "", actor)
    return curation.add(name, series_uids, actor)


def cohort_dict(row: CohortRow) -> dict[str, Any]:
    """A cohort as plain values."""
    return {**asdict(row), "created_at": row.created_at.isoformat(timespec="seconds")}


def members_dict(services: Services, name: str) -> dict[str, Any]:
    """A cohort with its series.

    Raises:
        NotFound: no such cohort.
    """
    members = services.ledger.curation.members(name)
    series = [
        {"series": one.series_uid, "author": one.author, "added_at": one.added_at.isoformat(timespec="seconds")}
        for one in members
    ]
    return {**cohort_dict(services.ledger.curation.cohort(name)), "series": series}
