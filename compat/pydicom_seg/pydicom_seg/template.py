"""dcmqi's description of a segmentation -> a data set with one SegmentSequence item a label."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept
from pydicom import Dataset

TEXTS = (
    "BodyPartExamined", "ClinicalTrialCoordinatingCenterName", "ClinicalTrialSeriesID", "ClinicalTrialTimePointID",
    "ContentCreatorName", "ContentDescription", "ContentLabel", "SeriesDescription",
)  # fmt: skip
NUMBERS = {"InstanceNumber": 1, "SeriesNumber": 300}


def from_dcmqi_metainfo(metainfo: Mapping[str, Any] | str | PathLike[str]) -> Dataset:
    """The template that dcmqi's meta-information describes.

    Args:
        metainfo: the decoded JSON, or the path of the file with it.

    Returns:
        A data set with texts, numbers and the SegmentSequence; SegmentNumber is the label's value in masks.

    Raises:
        ValueError: no segment, a value that occurs twice, a segment that lacks what a SEG needs.
    """
    described: Mapping[str, Any] = metainfo if isinstance(metainfo, Mapping) else json.loads(Path(metainfo).read_text())
    template = Dataset()
    for keyword in TEXTS:
        setattr(template, keyword, str(described.get(keyword, "")))
    for keyword, default in NUMBERS.items():
        setattr(template, keyword, int(described.get(keyword, default)))
    segments = [item for group in described.get("segmentAttributes", ()) for item in group]
    template.SegmentSequence = [_segment(item) for item in segments]
    numbers = [item.SegmentNumber for item in template.SegmentSequence]
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"segmentAttributes must describe labels of different labelID, got {numbers}")
    return template


def _segment(item: Mapping[str, Any]) -> Dataset:
    missing = [key for key in ("labelID", "SegmentedPropertyCategoryCodeSequence") if key not in item]
    if missing or "SegmentedPropertyTypeCodeSequence" not in item:
        raise ValueError(f"a segment needs labelID, category and type, got only {sorted(item)}")
    segment = Dataset()
    segment.SegmentNumber = int(item["labelID"])
    kind = item["SegmentedPropertyTypeCodeSequence"]
    segment.SegmentLabel = str(item.get("SegmentLabel") or kind["CodeMeaning"])
    segment.SegmentDescription = str(item.get("SegmentDescription") or segment.SegmentLabel)
    segment.SegmentAlgorithmType = str(item.get("SegmentAlgorithmType", "SEMIAUTOMATIC"))
    segment.SegmentAlgorithmName = str(item.get("SegmentAlgorithmName", "unknown"))
    segment.SegmentedPropertyCategoryCodeSequence = [_code(item["SegmentedPropertyCategoryCodeSequence"])]
    segment.SegmentedPropertyTypeCodeSequence = [_code(kind)]
    red, green, blue = item.get("recommendedDisplayRGBValue", (255, 0, 0))
    segment.RecommendedDisplayCIELabValue = list(CIELabColor.from_rgb(red, green, blue).value)
    return segment


def _code(item: Mapping[str, Any]) -> CodedConcept:
    return CodedConcept(
        value=str(item["CodeValue"]),
        scheme_designator=str(item["CodingSchemeDesignator"]),
        meaning=str(item["CodeMeaning"])[:64],
    )
