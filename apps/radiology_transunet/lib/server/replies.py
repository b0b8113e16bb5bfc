"""Replies in the shapes that MONAI Label's clients read."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np
from fastapi import Response

from lib.core.estimated import EstimatedDice
from lib.core.values import Mask, Prediction
from lib.ledger.rows import JobRow

OCTETS = "application/octet-stream"
JOB_STATES: Mapping[str, str] = {
    "queued": "SUBMITTED",
    "running": "RUNNING",
    "done": "DONE",
    "failed": "ERROR",
    "cancelled": "STOPPED",
}
NO_ESTIMATES: Mapping[str, EstimatedDice] = MappingProxyType({})
STAGES: Mapping[str, str] = {"preprocess": "pre", "network": "infer", "restore": "invert", "scores": "post"}


def attachment(content: bytes, name: str, media_type: str = OCTETS) -> Response:
    """A file to download."""
    return Response(content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def multipart(params: Mapping[str, Any], content: bytes, name: str) -> Response:
    """Result fields and result file in one form, as the infer route of MONAI Label answers."""
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f"{json.dumps(params)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: {OCTETS}\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


def infer_params(
    prediction: Prediction,
    model_version: int,
    write_s: float,
    estimates: Mapping[str, EstimatedDice] = NO_ESTIMATES,
) -> dict[str, Any]:
    """Result fields of an inference.

    `label_names` holds the labels that occur: 3D Slicer names the values of a label map by their order. Scores and
    evidence are told of every label of the task; null stands for what is not defined. Estimates of the Dice are told of
    models that have them, numbers only where the model knows such images.
    """
    latencies = {STAGES.get(stage, stage): round(s, 3) for stage, s in prediction.latencies_s.items()}
    total = round(sum(prediction.latencies_s.values()) + write_s, 3)
    return {
        "label_names": {label.name: label.id for label in prediction.mask.schema if _occurs(prediction.mask, label.id)},
        "latencies": {**latencies, "write": round(write_s, 3), "total": total},
        "centroids": centroids(prediction.mask),
        "scores": _finite_all(prediction.scores),
        "quantities": {quantity: _finite_all(scores) for quantity, scores in prediction.quantities.items()},
        "evidence": {name: _finite_all(asdict(found)) for name, found in prediction.evidence.items()},
        "estimated_dice": {name: estimate.told() for name, estimate in estimates.items()},
        "voxels": prediction.mask.voxels(),
        "model_version": model_version,
    }


def centroids(mask: Mask) -> dict[str, list[str]]:
    """By label that occurs, the index (column, row, slice) of its centre, as text like MONAI Label gives it."""
    found: dict[str, list[str]] = {}
    for label in mask.schema:
        places = np.argwhere(mask.array == label.id)  # (n, 3) as slice, row, column
        if len(places):
            found[label.name] = [str(round(float(x))) for x in places.mean(axis=0)[::-1]]
    return found


def job(row: JobRow) -> dict[str, Any]:
    """A job of the ledger as MONAI Label shows its tasks."""
    return {
        "id": str(row.id),
        "status": JOB_STATES[row.state],
        "request": {"model": row.task, **row.payload},
        "start_ts": timestamp(row.started_at or row.created_at),
        "end_ts": timestamp(row.finished_at),
        "details": [text for text in (row.message, row.error) if text] or [row.state],
        "progress": row.progress,
        "attempts": row.attempts,
        "result": row.result or None,
    }


def timestamp(moment: datetime | None) -> str | None:
    """Local time to the second, as MONAI Label writes it."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else None


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC, for our own pages."""
    return moment.isoformat(timespec="seconds") if moment else None


def _occurs(mask: Mask, label_id: int) -> bool:
    return bool((mask.array == label_id).any())


def _finite_all(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return float(value) if np.isfinite(value) else None
