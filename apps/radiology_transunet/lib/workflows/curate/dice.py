"""Estimated Dice of the newest drafts, as the ledger has kept them: no model and no image is looked at."""

from collections.abc import Mapping, Sequence

from lib.core.estimated import EstimatedDice
from lib.ledger.curationrows import CuratedCase
from lib.workflows.services import Services

Estimates = Mapping[str, EstimatedDice]
"""By label name."""


def estimated_dice(services: Services, cases: Sequence[CuratedCase]) -> dict[str, Estimates]:
    """Estimates by series; those without any are left out."""
    drafts = {case.draft_id: case.series_uid for case in cases if case.draft_id is not None}
    told = services.ledger.estimates.of(sorted(drafts))
    return {drafts[draft]: estimates for draft, estimates in told.items()}
