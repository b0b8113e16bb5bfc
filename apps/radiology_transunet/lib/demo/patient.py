"""One imaginary patient: every size, place and tissue that differs between patients, drawn from a seed."""

from dataclasses import dataclass

import numpy as np

from lib.demo.shapes import Ellipsoid, Point, Tube

LESION_SHARE = 0.25
"""Share of the patients with a lesion in the liver when nobody says who has one."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """The wall around the organs.

    Attributes:
        half_width_mm: from the middle to the outer side of the muscles, to the left.
        half_depth_mm: the same to the front.
        fat_mm: mean thickness of the fat under the skin.
        muscle_mm: thickness of the muscular wall.
    """

    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    muscle_mm: float


@dataclass(frozen=True, slots=True)
class Column:
    """The spine.

    Attributes:
        side_mm: how far its curve leaves the middle.
        bow_mm: how far the lordosis pushes it to the front at the lower end.
        phase_mm: height of one disc.
        pitch_mm: height of a vertebra with its disc.
        half_width_mm: of a vertebral body, left to right.
        half_depth_mm: of a vertebral body, front to back.
        marrow_hu: attenuation of the spongy bone.
    """

    side_mm: float
    bow_mm: float
    phase_mm: float
    pitch_mm: float
    half_width_mm: float
    half_depth_mm: float
    marrow_hu: float


@dataclass(frozen=True, slots=True)
class Kidney:
    """A kidney: the bean, the notch of its hilum and its pelvis."""

    bean: Ellipsoid
    notch: Ellipsoid
    pelvis: Ellipsoid


@dataclass(frozen=True, slots=True)
class Gut:
    """A piece of bowel.

    Attributes:
        tube: its course.
        content: "fluid", "contrast", "stool" or "gas".
    """

    tube: Tube
    content: str


@dataclass(frozen=True, slots=True)
class Patient:
    """Everything that is painted, in the patient's millimetres; the origin lies in the middle of the scan.

    Attributes:
        scale: size of this patient against the drawn shapes, in x, y and z.
        roll_rad: turn about the long axis.
        pitch_rad: turn about the left-right axis.
        shift_mm: where the patient lies in the scanner.
        contrast: how strongly vessels and parenchyma are enhanced, around 1.
        noise_hu: noise of the scanner.
    """

    scale: Point
    roll_rad: float
    pitch_rad: float
    shift_mm: Point
    contrast: float
    noise_hu: float
    trunk: Trunk
    column: Column
    liver: tuple[Ellipsoid, Ellipsoid]
    liver_vessels: tuple[Tube, ...]
    gallbladder: Ellipsoid
    spleen: Ellipsoid
    left_kidney: Kidney
    right_kidney: Kidney
    stomach: Tube
    pancreas: Tube
    heart: Ellipsoid
    domes: tuple[Ellipsoid, Ellipsoid]
    gut: tuple[Gut, ...]
    aorta_radius_mm: float
    lesions: tuple[Ellipsoid, ...]


class _Draw:
    """Numbers around a typical one."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def near(self, value: float, spread: float) -> float:
        return float(self.rng.uniform(value - spread, value + spread))

    def point(self, center: Point, spread: float) -> Point:
        return self.near(center[0], spread), self.near(center[1], spread), self.near(center[2], spread)

    def ellipsoid(
        self, center: Point, radii: Point, spread: float = 5.0, growth: float = 0.1, lean: tuple[float, float] = (0, 0)
    ) -> Ellipsoid:
        size = self.near(1.0, growth)
        rx, ry, rz = (r * size * self.near(1.0, growth / 2) for r in radii)
        return Ellipsoid(self.point(center, spread), (rx, ry, rz), lean)


def draw_patient(rng: np.random.Generator, lesion: bool | None = None) -> Patient:
    """Draw a patient.

    Args:
        rng: where the numbers come from.
        lesion: whether the liver has lesions; None leaves it to chance.
    """
    draw = _Draw(rng)
    liver = _liver(draw)
    sick = bool(rng.random() < LESION_SHARE)
    return Patient(
        scale=(draw.near(1.0, 0.05), draw.near(1.0, 0.06), draw.near(1.0, 0.05)),
        roll_rad=draw.near(0.0, 0.07),
        pitch_rad=draw.near(0.0, 0.04),
        shift_mm=draw.point((0.0, 0.0, 0.0), 6.0),
        contrast=draw.near(1.0, 0.12),
        noise_hu=draw.near(13.0, 4.0),
        trunk=Trunk(draw.near(138, 4), draw.near(99, 4), draw.near(15, 8), draw.near(12, 2.5)),
        column=_column(draw),
        liver=liver,
        liver_vessels=_liver_vessels(draw, liver[0]),
        gallbladder=draw.ellipsoid((-42, -48, -18), (13, 15, 25), 5, 0.25, lean=(0.1, 0.2)),
        spleen=draw.ellipsoid((98, 32, 32), (29, 46, 48), 5, 0.14, lean=(-0.15, -0.1)),
        left_kidney=_kidney(draw, 1, (64, 38, -14)),
        right_kidney=_kidney(draw, -1, (-62, 40, -32)),
        stomach=_stomach(draw),
        pancreas=_pancreas(draw),
        heart=draw.ellipsoid((26, -42, 104), (64, 46, 44), 6),
        domes=(
            draw.ellipsoid((-64, 0, -40), (92, 92, 122), 4, 0.03),
            draw.ellipsoid((66, 4, -40), (88, 88, 112), 4, 0.03),
        ),
        gut=_gut(draw),
        aorta_radius_mm=draw.near(11.0, 1.8),
        lesions=_lesions(draw, liver[0]) if (sick if lesion is None else lesion) else (),
    )


def _column(draw: _Draw) -> Column:
    return Column(
        side_mm=draw.near(0, 5),
        bow_mm=draw.near(8, 5),
        phase_mm=draw.near(0, 17),
        pitch_mm=draw.near(33, 2.5),
        half_width_mm=draw.near(22, 2),
        half_depth_mm=draw.near(16.5, 1.5),
        marrow_hu=draw.near(190, 45),
    )


def _liver(draw: _Draw) -> tuple[Ellipsoid, Ellipsoid]:
    """Right and left lobe."""
    right = draw.ellipsoid((-66, -8, 20), (70, 82, 66), 6, 0.07, lean=(0.12, 0.0))
    left = draw.ellipsoid((4, -52, 40), (66, 30, 34), 8, 0.16, lean=(0.1, 0.1))
    return right, left


def _liver_vessels(draw: _Draw, lobe: Ellipsoid) -> tuple[Tube, ...]:
    """Portal branches from the hilum and hepatic veins towards the upper end of the caval vein."""
    hilum, confluence = (-26.0, -8.0, 8.0), (-24.0, 10.0, 62.0)
    tubes = []
    for root, radius in (
        (hilum, 6.0),
        (hilum, 5.5),
        (hilum, 5.5),
        (hilum, 5.0),
        (confluence, 6.5),
        (confluence, 6.0),
        (confluence, 5.5),
    ):
        angle, rise = draw.near(np.pi, 1.3), draw.near(-0.1, 0.7)
        reach = draw.near(0.75, 0.12)
        end = (
            lobe.center[0] + reach * lobe.radii[0] * np.cos(angle) * np.cos(rise),
            lobe.center[1] + reach * lobe.radii[1] * np.sin(angle) * np.cos(rise),
            lobe.center[2] + reach * lobe.radii[2] * np.sin(rise),
        )
        middle = draw.point(((root[0] + end[0]) / 2, (root[1] + end[1]) / 2, (root[2] + end[2]) / 2), 8)
        tubes.append(Tube((root, middle, (float(end[0]), float(end[1]), float(end[2]))), (radius, radius * 0.7, 2.0)))
    return tuple(tubes)


def _kidney(draw: _Draw, side: int, center: Point) -> Kidney:
    """`side` is 1 on the left, -1 on the right; the upper pole leans to the middle."""
    lean = (-side * draw.near(0.2, 0.06), 0.12)
    bean = draw.ellipsoid(center, (27, 25, 52), 6, 0.12, lean)
    x, y, z = bean.center
    notch = Ellipsoid((x - side * 25, y - 9, z), (13, 11, 16), lean)
    pelvis = Ellipsoid((x - side * 9, y - 3, z), (draw.near(10, 2.5), draw.near(8, 1.5), draw.near(20, 4)), lean)
    return Kidney(bean, notch, pelvis)


def _stomach(draw: _Draw) -> Tube:
    fundus, body = draw.point((62, 0, 52), 6), draw.point((58, -36, 26), 7)
    return Tube((fundus, body, draw.point((12, -54, -4), 7)), (draw.near(32, 4), draw.near(29, 5), draw.near(16, 3)))


def _pancreas(draw: _Draw) -> Tube:
    head, neck, tail = draw.point((-34, -24, -22), 4), draw.point((2, -28, -6), 4), draw.point((66, 8, 12), 5)
    return Tube((head, neck, tail), (draw.near(14, 2), draw.near(9, 1.5), draw.near(10, 2)))


def _gut(draw: _Draw) -> tuple[Gut, ...]:
    """Loops of small bowel at random, then the frame of the colon."""
    loops = [_loop(draw) for _ in range(44)]
    up, down, across = draw.near(20, 4), draw.near(15, 3), draw.near(17, 3)
    rising = Tube((draw.point((-96, 14, -110), 4), draw.point((-94, 2, -40), 5)), (up, up * 0.9))
    falling = Tube(
        (draw.point((104, 26, -110), 3), draw.point((102, 14, -20), 4), draw.point((92, -14, 12), 5)), (down,) * 3
    )
    arch = (draw.point((-84, -30, -42), 6), draw.point((-8, -64, -52), 8), draw.point((84, -40, -8), 6))
    colon = (Gut(rising, "stool"), Gut(falling, "stool"), Gut(Tube(arch, (across,) * 3), "gas"))
    return (*loops, *colon)


def _loop(draw: _Draw) -> Gut:
    start = (draw.near(0, 82), draw.near(-32, 40), draw.near(-68, 44))
    middle, radius = draw.point(start, 24), draw.near(11.5, 2.5)
    content = str(draw.rng.choice(["fluid", "fluid", "fluid", "contrast", "contrast", "gas"]))
    return Gut(Tube((start, middle, draw.point(middle, 24)), (radius,) * 3), content)


def _lesions(draw: _Draw, lobe: Ellipsoid) -> tuple[Ellipsoid, ...]:
    """One to three, well inside the right lobe."""
    found = []
    for k in range(int(draw.rng.integers(1, 4))):
        direction = draw.rng.standard_normal(3)
        direction *= draw.near(0.42, 0.16) / np.linalg.norm(direction)
        x, y, z = (c + d * r for c, d, r in zip(lobe.center, direction, lobe.radii, strict=True))
        radius = draw.near(15, 4) if k == 0 else draw.near(9, 3)
        found.append(
            Ellipsoid(
                (float(x), float(y), float(z)), (radius, radius * draw.near(1, 0.15), radius * draw.near(1, 0.15))
            )
        )
    return tuple(found)
