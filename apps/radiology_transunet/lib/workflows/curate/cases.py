"""A case as a data team sees it: where it is from, what a person drew, what the newest draft said."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lib.core.geometry import Geometry
from lib.ledger.curationrows import ALL, CuratedCase, Wanted
from lib.selection.pool import QUANTITIES
from lib.taskfile import Task
from lib.workflows.query import viewer_path
from lib.workflows.services import Services

NOTHING: Mapping[str, float] = {}
ML_MM3 = 1000.0


def task_cases(services: Services, task: Task, wanted: Wanted = ALL) -> list[CuratedCase]:
    """Ready series that the task takes, in the order of their UIDs, without their grids and what a model said."""
    rows = services.ledger.curation.cases(task.name, replace(wanted, modalities=task.modalities))
    return [row for row in rows if task.why_not(row.modality, row.protocol) is None]


def predicted_ml(case: CuratedCase, label: str) -> float:
    """Volume of a label in the newest draft, in millilitres; NaN where no model said it."""
    return case.said.get(label, NOTHING).get("volume_ml", math.nan)


def drawn_ml(case: CuratedCase, label: str) -> float:
    """Volume of a label in the annotation that counts, in millilitres; NaN without one, or without its grid."""
    if case.label_id is None or not case.geometry:
        return math.nan
    shape, affine = case.geometry["shape"], case.geometry["affine"]
    return case.drawn.get(label, 0) * Geometry(tuple(shape), affine).voxel_volume_mm3 / ML_MM3


def shows(case: CuratedCase, label: str) -> bool:
    """Whether a person drew the label, or the newest draft has it."""
    return case.drawn.get(label, 0) > 0 or predicted_ml(case, label) > 0


def case_dict(case: CuratedCase, task: Task) -> dict[str, Any]:
    """The case as plain values; None stands for what nobody knows."""
    return {
        "series": case.series_uid,
        "study": case.study_uid,
        "patient": case.patient[:8],
        "split": case.split,
        "modality": case.modality,
        "site": case.site,
        "scanner": case.scanner,
        "protocol": case.protocol,
        "date": case.date,
        "state": case.state,
        "annotation": case.label_id,
        "model_version": case.model_version,
        "tags": list(case.tags),
        "labels": {name: _label(case, name) for name in task.schema.names if shows(case, name)},
        "viewer": viewer_path(case.study_uid, case.series_uid, task.name),
    }


def told(value: float) -> float | None:
    """A number rounded for people and JSON, None for what is none."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _label(case: CuratedCase, label: str) -> dict[str, float | None]:
    said = case.said.get(label, NOTHING)
    volumes = {"predicted_ml": predicted_ml(case, label), "drawn_ml": drawn_ml(case, label)}
    numbers = volumes | {name: said.get(name, math.nan) for name in QUANTITIES}
    return {name: told(value) for name, value in numbers.items()}
