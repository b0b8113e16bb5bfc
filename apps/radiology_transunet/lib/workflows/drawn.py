"""How large people drew each label, from the ledger alone: no image and no mask is read."""

from typing import TYPE_CHECKING

import numpy as np

from lib.ledger.rows import SeriesRow
from lib.taskfile import Task
from lib.workflows.collect import CalibrationCases, PoolCases
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.quality_features import Drawn


def voxel_ml(row: SeriesRow) -> float | None:
    """Volume of one voxel of a series in millilitres, None while its grid is unknown."""
    if not row.geometry:
        return None
    return float(abs(np.linalg.det(np.asarray(row.geometry["affine"])[:3, :3]))) / 1000.0


def drawn_volumes(services: Services, task: Task) -> "dict[str, list[Drawn]]":
    """What is drawn on the accepted labels of pool and calibration patients, by label name.

    They are what a model learns from and what it is calibrated on. What the gate judges on is not looked at.
    """
    from lib.inference.quality_features import Drawn

    found: dict[str, list[Drawn]] = {}
    for split in (PoolCases.split.value, CalibrationCases.split.value):
        series = {row.series_uid: row for row in services.ledger.series.list(split=split)}
        for label in services.ledger.annotations.accepted(task.name, split):
            row = series.get(label.series_uid)
            if row is not None and (ml := voxel_ml(row)) is not None:
                for name, voxels in label.voxels.items():
                    found.setdefault(name, []).append(Drawn(row.patient, voxels * ml))
    return found
