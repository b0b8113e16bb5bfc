"""Estimated Dice of drafts from what the ledger kept of them: no image is looked at again."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.core.errors import ManifestMismatch, NotFound
from lib.core.values import LabelEvidence
from lib.ledger.curationrows import CuratedCase
from lib.taskfile import Task
from lib.workflows.estimates import origin_of
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.quality import EstimatedDice, QualityModel

Estimates = Mapping[str, "EstimatedDice"]
"""By label name."""
EVIDENCE = tuple(field.name for field in fields(LabelEvidence))


def estimated_dice(
    services: Services, task: Task, cases: Sequence[CuratedCase]
) -> tuple[dict[str, Estimates], tuple[str, ...]]:
    """Estimates by series, each by the model of the version that drew the draft; and what has none, in words."""
    versions = sorted({case.model_version for case in cases if case.model_version is not None})
    found, notes = dict[str, Estimates](), list[str]()
    for version in versions:
        mine = [case for case in cases if case.model_version == version and case.said]
        try:
            quality = _quality(services, task, version)
        except (NotFound, ManifestMismatch) as error:
            notes.append(f"{len(mine)} drafts by version {version} have no estimated Dice: {error}")
            continue
        found |= _of_version(services, quality, mine)
    return found, tuple(notes)


def _quality(services: Services, task: Task, version: int) -> "QualityModel":
    """The version's model of its Dice, when it is of the samples that drafts are made with now."""
    from lib.inference.quality import load_quality

    folder = services.registry.get(task.name, version).folder
    quality, origin = load_quality(folder), origin_of(folder, services.settings.uncertainty)
    if quality.origin != origin:
        raise ManifestMismatch(f"they were fitted for {quality.origin}, it serves as {origin}")
    return quality


def _of_version(services: Services, quality: "QualityModel", cases: Sequence[CuratedCase]) -> dict[str, Estimates]:
    drafts = [case.draft_id for case in cases if case.draft_id is not None]
    vectors = services.ledger.curation.vectors(drafts)
    found: dict[str, Estimates] = {}
    for case in cases:
        vector = vectors.get(case.draft_id or 0)
        if vector:
            embedding = np.frombuffer(vector, dtype="<f4").astype(np.float32)
            found[case.series_uid] = quality.estimate(evidence_of(case), embedding, quality.origin)
    return found


def evidence_of(case: CuratedCase) -> dict[str, LabelEvidence]:
    """What a draft showed of each label, as when it was made; without volume nothing is known of a label."""
    told: dict[str, dict[str, Any]] = {
        label: {name: said[name] for name in EVIDENCE} for label, said in case.said.items()
    }
    return {
        label: LabelEvidence(**{**numbers, "components": int(np.nan_to_num(numbers["components"]))})
        for label, numbers in told.items()
        if np.isfinite(numbers["volume_ml"])
    }
