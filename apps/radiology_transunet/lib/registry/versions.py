"""The value that the registry hands out: one version of one task's model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

CHAMPION = "champion"
"""The alias of the version that serves a task."""

FOLDER_TAG = "folder"
METRICS_TAG = "metrics"
KEY_TAG = "key"
OWN_TAGS = (FOLDER_TAG, METRICS_TAG, KEY_TAG)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Weights plus manifest, as the registry knows them.

    Attributes:
        task: name of the task.
        version: 1, 2, ...; unique within the task.
        folder: where weights and manifest lie; never changes once it exists.
        created_at: when it was registered, in UTC.
        metrics: what was measured, by name.
        tags: what whoever registered it wanted to remember.
        is_champion: whether the task is served by it.
        key: names the piece of work that made it; empty when nobody gave one.
    """

    task: str
    version: int
    folder: Path
    created_at: datetime
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    is_champion: bool
    key: str = ""


def from_row(row: Any, models: Path, champion: int | None) -> ModelVersion:
    """The value of one row of MLflow.

    Args:
        row: mlflow's ModelVersion entity.
        models: folder of all weights.
        champion: version that serves the task, None when none does.
    """
    tags = dict(row.tags)
    return ModelVersion(
        task=row.name,
        version=int(row.version),
        folder=models / row.name / tags.get(FOLDER_TAG, ""),
        created_at=datetime.fromtimestamp(row.creation_timestamp / 1000, UTC),
        metrics=MappingProxyType(json.loads(tags.get(METRICS_TAG, "{}"))),
        tags=MappingProxyType({name: text for name, text in tags.items() if name not in OWN_TAGS}),
        is_champion=int(row.version) == champion,
        key=tags.get(KEY_TAG, ""),
    )
