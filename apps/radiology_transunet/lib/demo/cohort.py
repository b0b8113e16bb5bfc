"""The demo's cohort: patients to train on, held out to measure on, for the gate, to draft; and each of them as DICOM.

UIDs follow from the names of the cases, so a second run stores nothing twice.
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.demo.phantom import make_phantom

Dataset = Any
"""A pydicom data set; pydicom itself stays in the dicom room."""

TRAIN, HELD_OUT, GATE, DRAFT = "train", "held out", "gate", "draft"
SPLITS: Mapping[str, str] = MappingProxyType({TRAIN: "pool", HELD_OUT: "calibration", GATE: "promotion", DRAFT: "pool"})
"""The split of the patients of each role."""
GATE_PATIENTS = 5
"""As many as the gate wants to see each label in (`gate.min_patients`); fewer decide nothing."""
AUTHOR = "Demo Annotator"
INSTITUTION = "Synthetic Hospital"
DATE = "20260101"
PHANTOM_ROLES = (TRAIN,) * 12 + (HELD_OUT,) * 4 + (DRAFT,) * 8 + (GATE,) * GATE_PATIENTS
LESIONS = frozenset({1, 4, 7, 10, 12, 14, 17, 21, *range(24, 24 + GATE_PATIENTS)})
"""Numbers, from 0, of the phantoms with lesions: some of each role, and all of the gate's."""


@dataclass(frozen=True, slots=True)
class CohortCase:
    """One series of the cohort, not made or read yet.

    Attributes:
        key: what its UIDs follow from.
        title: its name for people; also the accession number, so at most 16 characters.
        patient_id: PatientID; cases of one patient share it.
        patient_name: PatientName.
        role: TRAIN, HELD_OUT, GATE or DRAFT.
        description: SeriesDescription.
        load: gives the image and its labels.
    """

    key: str
    title: str
    patient_id: str
    patient_name: str
    role: str
    description: str
    load: Callable[[], tuple[Volume, Mask]]

    @property
    def labelled(self) -> bool:
        """Whether a human label comes with it."""
        return self.role != DRAFT

    @property
    def split(self) -> str:
        """The split of its patient."""
        return SPLITS[self.role]

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID of the image."""
        return stable_uid(self.key, "series")

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""
        return stable_uid(self.key, "study")

    @property
    def seg_series_uid(self) -> str:
        """SeriesInstanceUID of its human label."""
        return stable_uid(self.key, "segmentation series")


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """One case as DICOM.

    Attributes:
        images: one data set a slice.
        segmentation: the human label, or None when there is none.
    """

    images: tuple[Dataset, ...]
    segmentation: Dataset | None

    @property
    def instances(self) -> tuple[Dataset, ...]:
        """Everything to store, the label last."""
        return self.images if self.segmentation is None else (*self.images, self.segmentation)


def phantom_cohort(schema: LabelSchema, roles: Sequence[str] = PHANTOM_ROLES) -> tuple[CohortCase, ...]:
    """The synthetic cohort: one patient a role, in that order."""
    return tuple(_phantom_case(number, role, schema) for number, role in enumerate(roles))


def case_files(case: CohortCase) -> CaseFiles:
    """Make one case: its series, and its label as a MANUAL segmentation when it has one."""
    from lib.dicom.seg import SegOrigin, write_seg
    from lib.dicom.series import assemble, match_slice_order
    from lib.dicom.writer import SeriesIdentity, series_to_datasets

    volume, mask = case.load()
    identity = SeriesIdentity(
        patient_id=case.patient_id,
        patient_name=case.patient_name,
        study_uid=case.study_uid,
        series_uid=case.series_uid,
        frame_of_reference_uid=stable_uid(case.key, "frame of reference"),
        description=case.description,
        study_description=f"Demo: {case.role}",
        accession=case.title,
        date=DATE,
        institution=INSTITUTION,
    )
    images = tuple(series_to_datasets(volume, identity))
    if not case.labelled or mask.is_empty:
        return CaseFiles(images, None)
    source = assemble(images)
    origin = SegOrigin("MANUAL", AUTHOR, "", "", f"Labels of {AUTHOR}")
    fitted = match_slice_order(mask, source.geometry)
    sop_uid = stable_uid(case.key, "segmentation")
    return CaseFiles(images, write_seg(fitted, source, origin, sop_uid, case.seg_series_uid))


def stable_uid(key: str, what: str) -> str:
    """A UID below 2.25 that is always the same for the same words (DICOM PS3.5 B.2)."""
    digest = hashlib.sha256(f"radiology_transunet demo/{key}/{what}".encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def _phantom_case(number: int, role: str, schema: LabelSchema) -> CohortCase:
    seed = number + 1

    def load() -> tuple[Volume, Mask]:
        return make_phantom(seed, schema, lesion=number in LESIONS)

    return CohortCase(
        key=f"phantom-{seed}",
        title=f"PHANTOM-{seed:03d}",
        patient_id=f"PHANTOM-{seed:03d}",
        patient_name=f"Phantom^{seed:03d}",
        role=role,
        description="Abdomen phantom CT",
        load=load,
    )
