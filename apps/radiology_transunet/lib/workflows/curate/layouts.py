"""Where the files of a data set lie and what its dataset.json says: nnU-Net v2's layout and that of the MSD.

nnU-Net: documentation/dataset_format.md of its repository. MSD: the data sets of the Medical Segmentation Decathlon
(Antonelli et al. 2022). Both read the same NIfTI files; nnU-Net v2 wants label ids without gaps, so both get them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lib.core.errors import InvalidInput
from lib.core.labels import BACKGROUND, LabelSchema

LayoutName = Literal["nnunet", "msd"]
LAYOUTS: tuple[LayoutName, ...] = ("nnunet", "msd")
ENDING = ".nii.gz"
NNUNET_FOLDER = re.compile(r"Dataset\d{3}_\w+")


@dataclass(frozen=True, slots=True)
class DataSet:
    """What a data set's description needs.

    Attributes:
        name: of the data set.
        description: of the data set, in words.
        modality: of all its images.
        labels: ids in its files by name, without background.
        labelled: names of the cases that have a label, in their order.
        unlabelled: names of those that have none.
    """

    name: str
    description: str
    modality: str
    labels: Mapping[str, int]
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]


def file_ids(schema: LabelSchema) -> dict[str, int]:
    """Label ids in files by name: 1, 2, ... in the order of the task's ids, so that ids without gaps stay."""
    ordered = sorted(schema, key=lambda label: label.id)
    return {label.name: number for number, label in enumerate(ordered, BACKGROUND + 1)}


def image_path(layout: LayoutName, case: str, is_labelled: bool) -> str:
    """Where the image of a case lies in its data set."""
    channel = "_0000" if layout == "nnunet" else ""
    return f"{'imagesTr' if is_labelled else 'imagesTs'}/{case}{channel}{ENDING}"


def label_path(case: str) -> str:
    """Where its label lies."""
    return f"labelsTr/{case}{ENDING}"


def require_folder_name(layout: LayoutName, name: str) -> None:
    """Raise InvalidInput for a folder that nnU-Net would not find."""
    if layout == "nnunet" and not NNUNET_FOLDER.fullmatch(name):
        raise InvalidInput(f"nnU-Net finds folders like Dataset501_Spleen (three digits, a name), got {name!r}")


def dataset_json(layout: LayoutName, data: DataSet) -> dict[str, Any]:
    """The contents of dataset.json."""
    return _nnunet(data) if layout == "nnunet" else _msd(data)


def _nnunet(data: DataSet) -> dict[str, Any]:
    return {
        "name": data.name,
        "description": data.description,
        "channel_names": {"0": data.modality},  # nnU-Net clips and scales what is called CT by its own rule
        "labels": {"background": BACKGROUND, **data.labels},
        "numTraining": len(data.labelled),
        "numTest": len(data.unlabelled),
        "file_ending": ENDING,
    }


def _msd(data: DataSet) -> dict[str, Any]:
    return {
        "name": data.name,
        "description": data.description,
        "reference": "",
        "licence": "",
        "release": "",
        "tensorImageSize": "3D",
        "modality": {"0": data.modality},
        "labels": {str(BACKGROUND): "background", **{str(number): name for name, number in data.labels.items()}},
        "numTraining": len(data.labelled),
        "numTest": len(data.unlabelled),
        "training": _training(data.labelled),
        "test": [f"./{image_path('msd', case, False)}" for case in data.unlabelled],
    }


def _training(cases: Sequence[str]) -> list[dict[str, str]]:
    return [{"image": f"./{image_path('msd', case, True)}", "label": f"./{label_path(case)}"} for case in cases]
