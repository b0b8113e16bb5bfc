"""An abdominal CT phantom with its labels: anatomy that differs between patients, texture, noise, partial volume."""

import numpy as np

from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.demo.canvas import Canvas
from lib.demo.organs import paint_patient
from lib.demo.patient import Patient, draw_patient
from lib.demo.shapes import Array, Points, smooth_field

SHAPE = (64, 128, 128)
SPACING_MM = (3.0, 2.8, 2.8)
WARP_MM = 3.5
"""Deviation of the smooth displacement that makes every outline irregular."""


def make_phantom(seed: int, schema: LabelSchema, lesion: bool | None = None) -> tuple[Volume, Mask]:
    """Make one patient's portal venous CT and its true labels.

    Args:
        seed: the same seed gives the same voxels.
        schema: labels are found by name: spine, liver, spleen, left kidney, right kidney, aorta,
            lesion; what a schema does not name stays background.
        lesion: whether the liver has lesions; None leaves it to the seed.

    Returns:
        A volume (64, 128, 128) in whole HU and its mask, 3 x 2.8 x 2.8 mm, along LPS.
    """
    rng = np.random.default_rng(seed)
    patient = draw_patient(rng, lesion)
    geometry = _grid()
    canvas = Canvas(_patient_points(geometry, patient, rng), schema, rng)
    paint_patient(canvas, patient)
    volume = Volume(canvas.scanned(rng, patient.noise_hu), geometry, "CT")
    return volume, Mask(canvas.labels, geometry, schema)


def _grid() -> Geometry:
    """The scanner's grid, centred on its axis."""
    slices, rows, columns = ((n - 1) * s / 2 for n, s in zip(SHAPE, SPACING_MM, strict=True))
    return Geometry.from_spacing(SHAPE, SPACING_MM, origin_mm=(-columns, -rows, -slices))


def _patient_points(geometry: Geometry, patient: Patient, rng: np.random.Generator) -> Points:
    """Where each voxel lies in the patient: moved, rolled, pitched, scaled and warped."""
    origin = geometry.affine[:3, 3]
    z, y, x = (
        (origin[2 - axis] + spacing * np.arange(count) - patient.shift_mm[2 - axis]).astype(np.float32).reshape(view)
        for axis, (count, spacing, view) in enumerate(
            zip(geometry.shape, geometry.spacing_mm, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
        )
    )
    roll_cos, roll_sin = np.float32(np.cos(patient.roll_rad)), np.float32(np.sin(patient.roll_rad))
    pitch_cos, pitch_sin = np.float32(np.cos(patient.pitch_rad)), np.float32(np.sin(patient.pitch_rad))
    x, y = roll_cos * x + roll_sin * y, roll_cos * y - roll_sin * x
    y, z = pitch_cos * y + pitch_sin * z, pitch_cos * z - pitch_sin * y
    warped = (_warped(axis, scale, geometry, rng) for axis, scale in zip((x, y, z), patient.scale, strict=True))
    return Points(*warped)


def _warped(positions: Array, scale: float, geometry: Geometry, rng: np.random.Generator) -> Array:
    """Positions in the unscaled patient with a smooth random displacement, (S, R, C) mm."""
    displacement = WARP_MM * smooth_field(rng, geometry.shape, (6, 8, 8))
    return np.asarray(positions / scale + displacement, dtype=np.float32)
