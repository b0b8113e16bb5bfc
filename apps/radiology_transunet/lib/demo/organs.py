"""The organs of a drawn patient, painted from the skin inwards."""

import numpy as np

from lib.demo.canvas import Canvas, Tissue
from lib.demo.patient import Gut, Kidney, Patient
from lib.demo.shapes import Array, Points, Region, blend, rounded_ellipse_mm
from lib.demo.spine import MUSCLE, aorta, caval_vein, paint_back_muscles, paint_spine

LIVER, SPLEEN, AORTA, LESION = "liver", "spleen", "aorta", "lesion"
LEFT_KIDNEY, RIGHT_KIDNEY = "left kidney", "right kidney"

SKIN = Tissue(25, 8, 8)
FAT = Tissue(-102, 6, 8)
INNER_FAT = Tissue(-96, 9, 13)
LUNG = Tissue(-845, 25, 38)
RIB = Tissue(380, 30, 35)
COUCH = Tissue(40, 5, 5)
GAS = Tissue(-960, 5, 5)
BILE = Tissue(8, 2, 2)
BOWEL_WALL = Tissue(82, 8, 8)
CONTENTS = {"fluid": Tissue(22, 8, 8), "contrast": Tissue(112, 12, 10), "stool": Tissue(15, 50, 75), "gas": GAS}

EVERYWHERE: Region = (slice(None), slice(None), slice(None))


def paint_patient(canvas: Canvas, patient: Patient) -> None:
    """Paint the whole patient and the couch below."""
    outer = _wall_mm(canvas.points, patient)
    cavity = outer + patient.trunk.muscle_mm
    _paint_trunk(canvas, patient, outer, cavity)
    under_domes = _diaphragm_mm(canvas.points, patient)
    _paint_chest(canvas, patient, cavity, under_domes)
    for piece in patient.gut:
        _paint_gut(canvas, piece, cavity, under_domes)
    _paint_stomach(canvas, patient, under_domes)
    paint_back_muscles(canvas, patient)
    enhanced = patient.contrast
    canvas.paint_shape(patient.pancreas, Tissue(96 * enhanced, 10, 9))
    _paint_liver(canvas, patient, np.maximum(cavity + 1.5, under_domes + 2.5))
    _paint_spleen(canvas, patient, np.maximum(cavity + 1.5, under_domes + 2.5))
    _paint_kidney(canvas, patient.left_kidney, enhanced, LEFT_KIDNEY)
    _paint_kidney(canvas, patient.right_kidney, enhanced, RIGHT_KIDNEY)
    canvas.paint_shape(caval_vein(patient), Tissue(140 * enhanced, 5, 3))
    paint_spine(canvas, patient)
    canvas.paint_shape(aorta(patient), INNER_FAT, grow_mm=1.5)
    canvas.paint_shape(aorta(patient), Tissue(178 * enhanced, 3, 3), AORTA)
    _paint_ribs(canvas, outer + patient.trunk.muscle_mm * 0.55)


def _wall_mm(points: Points, patient: Patient) -> Array:
    """Distance to the outer side of the muscular wall, which is a little narrower at the waist."""
    waist = 1.0 - 0.05 * np.exp(-np.square((points.z + 55) / 45))
    x, y = points.x / waist, points.y / waist
    return rounded_ellipse_mm(
        np.asarray(x, dtype=np.float32),
        np.asarray(y, dtype=np.float32),
        patient.trunk.half_width_mm,
        patient.trunk.half_depth_mm,
    )


def _diaphragm_mm(points: Points, patient: Patient) -> Array:
    """Distance to the two domes, negative below them."""
    right, left = (dome.distance_mm(points) for dome in patient.domes)
    return blend(right, left, 25.0)


def _paint_trunk(canvas: Canvas, patient: Patient, outer: Array, cavity: Array) -> None:
    """Couch, skin, fat, the muscular wall and the fat between the organs."""
    points, trunk = canvas.points, patient.trunk
    couch_y = trunk.half_depth_mm + 1.3 * trunk.fat_mm + 9 - np.square(points.x / 75)
    canvas.paint(EVERYWHERE, np.asarray(np.maximum(np.abs(points.y - couch_y) - 1.0, np.abs(points.x) - 200)), COUCH)
    around = np.hypot(points.x, points.y) + 1e-3
    fat = trunk.fat_mm * (1.0 + 0.3 * points.y / around - 0.25 * np.exp(-np.square((points.z - 60) / 50)))
    skin = outer - fat
    canvas.paint(EVERYWHERE, skin, SKIN)
    canvas.paint(EVERYWHERE, skin + 2.5, FAT)
    canvas.paint(EVERYWHERE, outer, MUSCLE)
    canvas.paint(EVERYWHERE, cavity, INNER_FAT)


def _paint_chest(canvas: Canvas, patient: Patient, cavity: Array, under_domes: Array) -> None:
    """Lungs above the domes, the heart between them, the thin diaphragm below."""
    region = canvas.points.region((-200, -140, 0), (200, 140, 140))
    beside = 24.0 - np.abs(canvas.points.x[region])  # the mediastinum stays fat
    lung = np.maximum(np.maximum(cavity[region] + 2, -under_domes[region]), beside)
    diaphragm = np.maximum(np.abs(under_domes[region]) - 1.5, cavity[region] + 0.5)
    canvas.paint(region, diaphragm, MUSCLE)
    canvas.paint(region, lung, LUNG)
    heart = patient.heart.distance_mm(canvas.points[region])
    canvas.paint(region, np.maximum(heart - 4, -under_domes[region]), INNER_FAT)
    canvas.paint(region, np.maximum(heart, -under_domes[region] + 2), Tissue(130 * patient.contrast, 14, 5))


def _paint_gut(canvas: Canvas, piece: Gut, cavity: Array, under_domes: Array) -> None:
    """Wall and content; gas stands at the front, fluid below it."""
    region = canvas.points.region(*piece.tube.box())
    points = canvas.points[region]
    inside = np.maximum(cavity[region] + 1, under_domes[region] + 2)
    tube = np.maximum(piece.tube.distance_mm(points), inside)
    canvas.paint(region, tube - 1.5, INNER_FAT)
    canvas.paint(region, tube, BOWEL_WALL)
    canvas.paint(region, tube + 3.0, CONTENTS["fluid" if piece.content == "gas" else piece.content])
    if piece.content == "gas":
        level_y = float(np.mean([p[1] for p in piece.tube.path])) + 2.0
        canvas.paint(region, np.maximum(tube + 3.0, points.y - level_y), GAS)


def _paint_stomach(canvas: Canvas, patient: Patient, under_domes: Array) -> None:
    """Wall, food and a bubble of gas with its level."""
    tube = patient.stomach
    region = canvas.points.region(*tube.box())
    points = canvas.points[region]
    distance = np.maximum(tube.distance_mm(points), under_domes[region] + 3)
    canvas.paint(region, distance, BOWEL_WALL)
    canvas.paint(region, distance + 4.5, Tissue(38, 14, 16))
    level_y = tube.path[1][1] - 8.0
    canvas.paint(region, np.maximum(distance + 4.5, points.y - level_y), GAS)


def _paint_liver(canvas: Canvas, patient: Patient, room: Array) -> None:
    """Both lobes, their vessels, the gallbladder and the lesions; `room` is where organs may lie."""
    right, left = patient.liver
    low, high = np.minimum(right.box()[0], left.box()[0]), np.maximum(right.box()[1], left.box()[1])
    region = canvas.points.region((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    points = canvas.points[region]
    liver = blend(right.distance_mm(points), left.distance_mm(points), 28.0)
    liver = np.maximum(liver, room[region])
    enhanced = patient.contrast
    canvas.paint(region, liver - 1.5, INNER_FAT)
    canvas.paint(region, liver, Tissue(108 * enhanced, 5, 4), LIVER)
    vessels = np.min([tube.distance_mm(points) for tube in patient.liver_vessels], axis=0)
    canvas.paint(region, np.maximum(vessels, liver + 6), Tissue(168 * enhanced, 4, 4), LIVER)
    canvas.paint_shape(patient.gallbladder, BOWEL_WALL)
    canvas.paint_shape(patient.gallbladder, BILE, grow_mm=-2.5)
    for lesion in patient.lesions:
        canvas.paint_shape(lesion, Tissue(88, 6, 8), LESION)
        canvas.paint_shape(lesion, Tissue(48, 8, 9), LESION, grow_mm=-3.0)


def _paint_spleen(canvas: Canvas, patient: Patient, room: Array) -> None:
    """The spleen, hollowed by the stomach."""
    region = canvas.points.region(*patient.spleen.box())
    points = canvas.points[region]
    spleen = np.maximum(patient.spleen.distance_mm(points), room[region])
    spleen = np.maximum(spleen, 3.0 - patient.stomach.distance_mm(points))
    canvas.paint(region, spleen - 2.0, INNER_FAT)
    canvas.paint(region, spleen, Tissue(126 * patient.contrast, 5, 6), SPLEEN)


def _paint_kidney(canvas: Canvas, kidney: Kidney, enhanced: float, label: str) -> None:
    """Fat capsule, cortex, medulla with darker pyramids, pelvis with urine."""
    region = canvas.points.region(*kidney.bean.box())
    points = canvas.points[region]
    bean = kidney.bean.distance_mm(points)
    parenchyma = np.maximum(bean, -kidney.notch.distance_mm(points))
    pelvis = kidney.pelvis.distance_mm(points)
    canvas.paint(region, bean - 4.0, INNER_FAT)
    canvas.paint(region, parenchyma, Tissue(198 * enhanced, 6, 8), label)
    canvas.paint(region, np.maximum(parenchyma + 6.5, -pelvis), Tissue(150 * enhanced, 22, 10), label)
    canvas.paint(region, np.maximum(parenchyma + 3.0, pelvis), Tissue(12, 22, 10), label)


def _paint_ribs(canvas: Canvas, middle: Array) -> None:
    """Ribs 8 to 12 in the wall: down from the spine to the front; `middle` is the distance to their surface."""
    region = canvas.points.region((-200, -140, -60), (200, 140, 140))
    points = canvas.points[region]
    turn = np.arctan2(np.abs(points.x), points.y)  # 0 at the back, pi at the front
    for number in range(6):
        height = 138.0 - 27.0 * number - 34.0 * turn
        reach = (2.5, 2.4, 2.2, 1.9, 1.45, 1.0)[number]
        rib = np.hypot(middle[region], 0.75 * (points.z - height)) - 4.6
        rib = np.maximum(rib, 60.0 * np.maximum(turn - reach, 0.45 - turn))
        canvas.paint(region, np.asarray(rib, dtype=np.float32), RIB)
        canvas.paint(region, np.asarray(rib + 3.0, dtype=np.float32), Tissue(190, 20, 25))
