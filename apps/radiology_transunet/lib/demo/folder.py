"""A folder of NIfTI images with labels as a cohort: images/NAME.nii.gz and labels/NAME.nii.gz.

Patients, not files, are divided: 60 % to train on, 20 % held out, 20 % to draft. Half of those held out are the gate's,
where that is enough for it to decide.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lib.core.errors import InvalidInput
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.demo.cohort import DRAFT, GATE, GATE_PATIENTS, HELD_OUT, TRAIN, CohortCase

SUFFIXES = (".nii.gz", ".nii")
TRAIN_SHARE, HELD_OUT_SHARE = 0.6, 0.2
EACH, PAIRS = "each", "pairs"
LAST_NUMBER = re.compile(r"(\d+)\D*$")
KNOWN_RULES = (("hippocampus_", PAIRS),)
"""Data sets whose files are known not to be one patient each, by the start of their file names."""


def folder_cohort(
    folder: Path, schema: LabelSchema, modality: str, rule: str = "", description: str = ""
) -> tuple[CohortCase, ...]:
    """The cohort of a folder, sorted by file name.

    Args:
        folder: holds images/ and labels/ with equal file names.
        schema: what the values in labels/ mean.
        modality: "CT" or "MR".
        rule: who the patient of a file is, see `patient_rule`.
        description: SeriesDescription; the folder's name when empty.

    Raises:
        InvalidInput: a missing folder, no image, an image without label, too few patients.
    """
    images = _images(folder / "images")
    names = [name for name, _ in images]
    patient_of = patient_rule(rule or known_rule(names))
    patients = {name: patient_of(name) for name in names}
    roles = divide(sorted(set(patients.values())))
    return tuple(
        _case(path, _label_path(folder, path), schema, modality, patients[name], roles[patients[name]], description)
        for name, path in images
    )


def known_rule(names: Sequence[str]) -> str:
    """The rule for files of those names when nobody gives one: that of a known data set, else one patient a file."""
    return next((rule for start, rule in KNOWN_RULES if all(name.startswith(start) for name in names)), EACH)


def patient_rule(rule: str) -> Callable[[str], str]:
    """What gives the patient of a file name without its suffix.

    Args:
        rule: "each" (a patient a file), "pairs" (the last number n in the name is patient (n + 1) // 2), or a
            regular expression whose first group is the patient.

    Raises:
        InvalidInput: a regular expression that is wrong or has no group.
    """
    if rule == EACH:
        return lambda name: name
    if rule == PAIRS:
        return lambda name: f"{(int(_matched(LAST_NUMBER, name)) + 1) // 2:04d}"
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise InvalidInput(f"a patient rule is each, pairs or a regular expression, got {rule!r}: {error}") from error
    if pattern.groups < 1:
        raise InvalidInput(f"the patient rule {rule!r} needs a group around what names the patient, e.g. 'case(\\d+)_'")
    return lambda name: _matched(pattern, name)


def divide(patients: Sequence[str]) -> Mapping[str, str]:
    """A role for each patient: shares of 60, 20 and 20 %, at least one of each, in an order drawn by a hash.

    Of the held-out ones half are the gate's, or none where these would be too few.

    Raises:
        InvalidInput: fewer than three patients.
    """
    if len(patients) < 3:
        raise InvalidInput(f"a cohort needs at least 3 patients (to train, to measure, to draft), got {len(patients)}")
    order = sorted(patients, key=lambda patient: hashlib.sha256(patient.encode()).digest())
    held_out = max(1, math.floor(HELD_OUT_SHARE * len(order) + 0.5))
    train = max(1, min(math.floor(TRAIN_SHARE * len(order) + 0.5), len(order) - held_out - 1))
    judging = held_out // 2 if held_out >= 2 * GATE_PATIENTS else 0
    roles = [TRAIN] * train + [HELD_OUT] * (held_out - judging) + [GATE] * judging
    roles += [DRAFT] * (len(order) - train - held_out)
    return dict(zip(order, roles, strict=True))


def _images(folder: Path) -> list[tuple[str, Path]]:
    """Names without suffix, and paths, sorted by name."""
    if not folder.is_dir():
        raise InvalidInput(f"the data folder must hold images/ and labels/, but there is no {folder}")
    found = sorted((name, path) for path in folder.iterdir() if (name := _stem(path)))
    if not found:
        raise InvalidInput(f"{folder} must hold NIfTI files ({' or '.join(SUFFIXES)}), got none")
    return found


def _stem(path: Path) -> str:
    """The file name without the suffix of NIfTI; "" for other and hidden files."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix) if suffix and not path.name.startswith(".") else ""


def _label_path(folder: Path, image: Path) -> Path:
    label = folder / "labels" / image.name
    if not label.is_file():
        raise InvalidInput(f"each image needs a label of the same name, but there is no {label}")
    return label


def _case(
    image: Path, label: Path, schema: LabelSchema, modality: str, patient: str, role: str, description: str
) -> CohortCase:
    name = _stem(image)
    set_name = image.parent.parent.resolve().name

    def load() -> tuple[Volume, Mask]:
        from lib.dicom.nifti import read_mask, read_volume

        volume, mask = read_volume(image, modality), read_mask(label, schema)
        volume.geometry.require_same(mask.geometry, f"the label {label}")
        return volume, mask

    return CohortCase(
        key=f"{name}-{modality}-{patient}-{hashlib.sha256(image.read_bytes()).hexdigest()[:16]}",
        title=name[-16:],
        patient_id=f"{set_name[:40]}-{patient[:20]}",
        patient_name=f"{set_name[:40]}^{patient[:20]}",
        role=role,
        description=description or set_name[:64],
        load=load,
    )


def _matched(pattern: re.Pattern[str], name: str) -> str:
    """The first group of a pattern found in a file's name."""
    found = pattern.search(name)
    if found is None or found[1] is None:
        raise InvalidInput(f"the patient rule {pattern.pattern!r} must match every file name, but not {name!r}")
    return found[1]
