"""A map of uncertainty both ways: values on a series' grid <-> a DICOM Parametric Map.

The object lies in the space of its source, one frame for each slice in the source's order, and says what its values
are: a coded quantity without unit (nats are pure numbers), as 32-bit floats that stand for themselves. Floats and not
scaled integers because viewers show stored values: OHIF 3.13 multiplies them by 100 within their own type, heeds no
mapping, and takes the frames to be in the order of its volume, along the normal of the slices.
"""

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ParametricMapStorage

from lib.core.errors import InvalidInput, InvalidSegmentation, InvalidVolume
from lib.core.geometry import Geometry
from lib.core.labels import Code
from lib.dicom.answers import text_of
from lib.dicom.files import malformed_as
from lib.dicom.pixels import frames
from lib.dicom.segread import Placement
from lib.dicom.segwrite import NAMES, UTF8, SegOrigin, completed_header, concept
from lib.dicom.series import SourceSeries
from lib.dicom.writer import new_uid

SERIES_NUMBER = 301
MAP_SCHEME = "99TRANSUNET"
"""Private coding scheme: no standard one has these quantities."""

FloatArray = npt.NDArray[np.floating[Any]]
FloatMap = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class MapQuantity:
    """What a map shows.

    Attributes:
        code: of the quantity.
        label: of its values, at most 16 characters.
    """

    code: Code
    label: str


QUANTITIES = {
    "entropy": MapQuantity(Code("ENTROPY", "Entropy of class probabilities in nats", MAP_SCHEME), "ENTROPY"),
    "bald": MapQuantity(Code("BALD", "Mutual information of class and model sample in nats", MAP_SCHEME), "BALD"),
}
"""By the name that `uncertainty.map` has."""


def write_pmap(
    values: FloatArray,
    geometry: Geometry,
    source: SourceSeries,
    quantity: MapQuantity,
    origin: SegOrigin,
    classes: int,
    sop_instance_uid: str,
    series_uid: str | None = None,
) -> Dataset:
    """The map as an object of the source's study.

    Args:
        values: (S, R, C) in nats, from 0 to ln(classes).
        geometry: their grid.
        source: the series they lie on.
        quantity: what they are.
        origin: what made them.
        classes: labels and background.
        sop_instance_uid: of the new object; the caller fixes it, so that a repeated upload is recognised.
        series_uid: of the new object's series; a fresh one when None.

    Raises:
        InvalidVolume: another shape than the grid's, or values that are not finite.
        GeometryMismatch: the map lies on another grid than the source.
    """
    source.geometry.require_same(geometry, "the map")
    if values.shape != geometry.shape or not np.isfinite(values).all():
        raise InvalidVolume(f"a map must have finite values of shape {geometry.shape}, got {values.shape}")
    largest = log(classes)
    pmap = ParametricMap(
        source_images=[completed_header(header, source) for header in source.headers],
        pixel_array=np.asarray(values, dtype=np.float32),
        series_instance_uid=series_uid or new_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_instance_uid,
        instance_number=1,
        manufacturer=origin.software,
        manufacturer_model_name=origin.algorithm_name or origin.software,
        software_versions=origin.algorithm_version or origin.software,
        device_serial_number=origin.software,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(quantity, largest)],
        voi_lut_transformations=[VOILUTTransformation(window_center=largest / 2, window_width=largest)],
        content_label=quantity.code.value,
        content_description=origin.description,
        specific_character_set=UTF8,
        series_description=origin.description,
    )
    for keyword in NAMES:
        setattr(pmap, keyword, source.headers[0].get(keyword, ""))
    pmap.ContentCreatorName = origin.author
    _order_frames(pmap, values, source)
    return pmap


def read_pmap(dataset: Dataset, source: SourceSeries) -> FloatMap:
    """The real-world values (S, R, C) of a map on its source's grid; frames are placed by their position.

    Raises:
        InvalidInput: no parametric map, another series, space or size than the source's, a frame that cannot be
            placed, a slice without a frame.
    """
    if dataset.get("SOPClassUID") != ParametricMapStorage:
        raise InvalidInput(f"a DICOM Parametric Map is needed, got {text_of(dataset, 'SOPClassUID')}")
    with malformed_as(InvalidInput, "the map"):
        _require_source(dataset, source)
        slope, intercept = _scale(dataset)
        found = np.full(source.geometry.shape, np.nan, dtype=np.float32)
        placement = Placement(source)
        for index, values in enumerate(_frames(dataset)):
            try:
                found[placement.slice_of(dataset, index)] = values * slope + intercept
            except InvalidSegmentation as error:
                raise InvalidInput(f"the map cannot be placed: {error}") from error
    missing = int(np.isnan(found).any(axis=(1, 2)).sum())
    if missing:
        raise InvalidInput(f"a map must have a frame for each of {len(found)} slices, {missing} have none")
    return found


def _order_frames(pmap: Dataset, values: FloatArray, source: SourceSeries) -> None:
    """Put the frames, which highdicom orders the other way round, into the order of the source's slices."""
    placement = Placement(source)
    groups = list(pmap.PerFrameFunctionalGroupsSequence)
    groups = [groups[index] for index in np.argsort([placement.slice_of(pmap, n) for n in range(len(groups))])]
    for number, group in enumerate(groups, start=1):
        group.FrameContentSequence[0].DimensionIndexValues = [number]
    pmap.PerFrameFunctionalGroupsSequence = groups
    pmap.FloatPixelData = np.ascontiguousarray(values, dtype="<f4").tobytes()


def _frames(dataset: Dataset) -> npt.NDArray[np.float32]:
    """Stored values (frames, R, C)."""
    if "FloatPixelData" not in dataset:
        return np.stack([np.asarray(frame, dtype=np.float32) for frame in frames(dataset)])
    shape = int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns)
    return np.frombuffer(dataset.FloatPixelData, dtype="<f4").reshape(shape)


def _scale(dataset: Dataset) -> tuple[float, float]:
    """Slope and intercept from stored to real-world values, the same for all frames."""
    group = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    return float(group.RealWorldValueSlope), float(group.RealWorldValueIntercept)


def _mapping(quantity: MapQuantity, largest: float) -> RealWorldValueMapping:
    return RealWorldValueMapping(
        lut_label=quantity.label,
        lut_explanation=quantity.code.meaning,
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, largest),
        slope=1.0,
        intercept=0.0,
        quantity_definition=concept(quantity.code),
    )


def _require_source(dataset: Dataset, source: SourceSeries) -> None:
    space = dataset.get("FrameOfReferenceUID")
    if space != source.frame_of_reference_uid:
        raise InvalidInput(f"the map must have the frame of reference {source.frame_of_reference_uid}, got {space}")
    referenced = [text_of(item, "SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence") or ()]
    if source.series_uid not in referenced:
        raise InvalidInput(f"the map must refer to series {source.series_uid}, got {', '.join(referenced) or 'none'}")
    size = int(dataset.Rows), int(dataset.Columns)
    if size != source.geometry.shape[1:]:
        raise InvalidInput(f"the map must have {source.geometry.shape[1:]} rows and columns, got {size}")
