"""From the values of an uploaded label file to label ids of a task, by name wherever there are names.

3D Slicer sends `label_info`, a list of {"name", "idx"}: the voxel value is the place in that list, from 1, and `idx`
the place in its own scene, which differs when it left segments out. Where the two readings disagree about the voxels
that came, the upload is refused: a wrong organ is worse than a question.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.core.errors import InvalidSegmentation
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask
from lib.server.volumefiles import LabelFile, onto_grid

IGNORED = frozenset({"background", "foreground_scribbles", "background_scribbles"})


def to_mask(label: LabelFile, label_info: Sequence[Mapping[str, Any]], geometry: Geometry, schema: LabelSchema) -> Mask:
    """The upload as a mask of a task, on the series' grid.

    Args:
        label: the file.
        label_info: names that came beside the file; may be empty.
        geometry: grid of the series.
        schema: labels of the task.

    Raises:
        GeometryMismatch: another grid.
        InvalidSegmentation: values or names that the task does not know.
    """
    values = [int(value) for value in np.unique(label.array) if value != 0]
    names = value_names(values, label.names, label_info)
    lookup = {value: _label_id(value, names, schema) for value in values}
    array = np.zeros(label.array.shape, dtype=np.uint8)
    for value, label_id in lookup.items():
        array[label.array == value] = label_id
    return Mask(onto_grid(array, label.geometry, geometry), geometry, schema)


def value_names(
    values: Sequence[int], own_names: Mapping[int, str], label_info: Sequence[Mapping[str, Any]]
) -> Mapping[int, str]:
    """Names of the voxel values that occur; empty when nobody named them.

    Raises:
        InvalidSegmentation: the two readings of `label_info` disagree.
    """
    if own_names or not label_info:
        return own_names
    by_place = {place + 1: str(entry.get("name", "")) for place, entry in enumerate(label_info)}
    by_index = {int(entry["idx"]): str(entry.get("name", "")) for entry in label_info if "idx" in entry}
    readings = [table for table in (by_place, by_index) if table and all(value in table for value in values)]
    if not readings:
        raise InvalidSegmentation(f"label_info must name the voxel values {list(values)}, got {list(label_info)}")
    if any(table[value] != readings[0][value] for table in readings for value in values):
        raise InvalidSegmentation(
            f"label_info is ambiguous: voxel values {list(values)} mean {_read(readings[0], values)} by place but "
            f"{_read(readings[-1], values)} by idx; number the segments from 1 without gaps"
        )
    return readings[0]


def names_used(label: LabelFile, label_info: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the labels that have voxels; empty when nobody named them."""
    values = [int(value) for value in np.unique(label.array) if value != 0]
    names = value_names(values, label.names, label_info)
    return tuple(names[value] for value in values) if names else ()


def _read(table: Mapping[int, str], values: Sequence[int]) -> list[str]:
    return [table[value] for value in values]


def _label_id(value: int, names: Mapping[int, str], schema: LabelSchema) -> int:
    """Label id of a voxel value; 0 for the names that viewers use for nothing."""
    if not names:
        if value not in schema.ids:
            raise InvalidSegmentation(f"voxel values must be label ids among {list(schema.ids)}, got {value}")
        return value
    name = names.get(value, "")
    if name.casefold() in IGNORED:
        return 0
    found = schema.find(name)
    if found is None:
        raise InvalidSegmentation(f"the task labels {', '.join(schema.names)}; got {name!r} at voxel value {value}")
    return found.id
