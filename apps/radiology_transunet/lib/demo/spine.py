"""The spine: bodies, discs, canal, arches and processes, and the vessels and muscles that follow its curve."""

import numpy as np

from lib.demo.canvas import Canvas, Tissue
from lib.demo.patient import Column, Patient
from lib.demo.shapes import Array, Points, Tube

SPINE = "spine"
BODY_Y_MM = 38.0
"""How far behind the middle of the trunk the vertebral bodies lie."""
DISC_MM = 7.0
CANAL_MM = (10.5, 8.0)

CORTEX = Tissue(430, 25, 25)
DISC = Tissue(85, 6, 5)
CANAL = Tissue(28, 3, 3)
MUSCLE = Tissue(58, 5, 6)


def paint_spine(canvas: Canvas, patient: Patient) -> None:
    """Paint the spine and take its canal out again."""
    column = patient.column
    region = canvas.points.region((-42, 10, -130), (42, 96, 130))
    points = _along(canvas.points[region], column)
    level = _level_mm(points, column)
    body = _body_mm(points, column, level)
    arch = _arch_mm(points, column, level)
    canvas.paint(region, np.minimum(body, arch), CORTEX, SPINE)
    marrow = Tissue(column.marrow_hu, 16, 18)
    canvas.paint(region, np.minimum(body, arch + 1.0) + 2.6, marrow, SPINE)
    canvas.paint(region, np.maximum(body, level - DISC_MM / 2), DISC, SPINE)
    canvas.paint(region, _canal_mm(points, column), CANAL)


def paint_back_muscles(canvas: Canvas, patient: Patient) -> None:
    """Paint the erector muscles and the psoas on both sides."""
    for side in (-1.0, 1.0):
        y = BODY_Y_MM
        erector = Tube(((side * 31, y + 30, -130), (side * 30, y + 31, 130)), (22, 20))
        canvas.paint_shape(erector, MUSCLE)
        flank = Tube(((side * 54, y + 24, -130), (side * 48, y + 28, 40)), (15, 8))
        canvas.paint_shape(flank, MUSCLE)
        psoas = Tube(((side * 25, y + 4, 4), (side * 34, y, -55), (side * 42, y - 8, -130)), (5, 15, 20))
        canvas.paint_shape(psoas, MUSCLE)


def aorta(patient: Patient) -> Tube:
    """The aorta in front of the spine, a little to the left."""
    return _before_spine(patient, (15.0, 12.0, 9.0, 7.0), patient.aorta_radius_mm, -1.5)


def caval_vein(patient: Patient) -> Tube:
    """The lower caval vein in front of the spine, to the right."""
    return _before_spine(patient, (-23.0, -21.0, -19.0, -17.0), patient.aorta_radius_mm + 0.5, 0.5)


def _before_spine(patient: Patient, sides_mm: tuple[float, ...], radius_mm: float, taper_mm: float) -> Tube:
    """A vessel along the front of the bodies, from the upper end down."""
    column = patient.column
    heights = np.array((120.0, 45.0, -30.0, -120.0), dtype=np.float32)
    front = BODY_Y_MM - column.half_depth_mm - radius_mm - 1.0
    path = np.stack([np.array(sides_mm) + _side(heights, column), front + _bow(heights, column), heights], axis=1)
    return Tube(tuple((x, y, z) for x, y, z in path.tolist()), tuple(radius_mm + taper_mm * k / 2 for k in range(4)))


def _along(points: Points, column: Column) -> Points:
    """Positions against the axis of the vertebral bodies at their height."""
    x = points.x - _side(points.z, column)
    y = points.y - BODY_Y_MM - _bow(points.z, column)
    return Points(np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32), points.z)


def _side(z: Array, column: Column) -> Array:
    return np.asarray(column.side_mm * np.sin(z / 70.0))


def _bow(z: Array, column: Column) -> Array:
    return np.asarray(-column.bow_mm * np.square((96.0 - np.clip(z, -130, 96)) / 192.0))


def _level_mm(points: Points, column: Column) -> Array:
    """Height above or below the nearest disc's middle, from 0 to half the pitch."""
    turns = (points.z - column.phase_mm) / column.pitch_mm
    return np.asarray(np.abs(turns - np.rint(turns)) * column.pitch_mm, dtype=np.float32)


def _body_mm(points: Points, column: Column, level: Array) -> Array:
    """Distance to the pile of bodies and discs; bodies are narrower at half height."""
    waist = 2.0 * np.clip(level / (column.pitch_mm / 2), 0, 1)
    oval = np.hypot(points.x / column.half_width_mm, points.y / column.half_depth_mm)
    flat_back = points.y - column.half_depth_mm * 0.86
    return np.asarray(np.maximum((oval - 1) * column.half_depth_mm + waist, flat_back), dtype=np.float32)


def _canal_mm(points: Points, column: Column) -> Array:
    y = points.y - column.half_depth_mm - CANAL_MM[1] + 1.5
    return np.asarray((np.hypot(points.x / CANAL_MM[0], y / CANAL_MM[1]) - 1) * CANAL_MM[1], dtype=np.float32)


def _arch_mm(points: Points, column: Column, level: Array) -> Array:
    """Distance to the arches: pedicles at half height, laminae behind, spinous and transverse processes."""
    canal = _canal_mm(points, column)
    back = points.y - column.half_depth_mm
    ring = np.maximum(canal - 5.5, -back - 4.0)
    pedicles_only = np.maximum(column.pitch_mm / 2 - 11.0 - level, 8.0 - back)
    ring = np.maximum(ring, np.minimum(pedicles_only, 9.0 - back))
    drooped = np.abs((points.z - column.phase_mm + 0.35 * back) / column.pitch_mm % 1.0 - 0.5) * column.pitch_mm
    spinous = np.maximum(np.maximum(np.abs(points.x) - 3.6, np.abs(back - 30.0) - 16.0), drooped - 10.0)
    transverse = np.maximum(np.abs(points.x) - 37.0, np.abs(back - 10.0 + 0.05 * np.abs(points.x)) - 4.2)
    transverse = np.maximum(transverse, column.pitch_mm / 2 - 6.0 - level)
    return np.asarray(np.minimum(np.minimum(ring, spinous), transverse), dtype=np.float32)
