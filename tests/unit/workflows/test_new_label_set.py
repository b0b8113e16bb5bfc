"""A label set that nobody has tried: four organs in MR, 35 slices of 256 x 256 pixels, 7.7 x 1.25 x 1.25 mm."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.dicom.nifti import write_mask, write_volume

GRID = Geometry.from_spacing((35, 256, 256), (7.7, 1.25, 1.25))
SCHEMA = LabelSchema(tuple(Label(f"organ {n}", n, (n, n, n), Code("1", "x")) for n in (1, 2, 3, 4)))
BODY = ((0, 0, 0), (200, 110, 150), 200.0)
ORGANS = (
    ((10, 0, -60), (60, 50, 60), 320.0),
    ((20, -20, 70), (40, 25, 30), 420.0),
    ((-40, -60, -50), (45, 22, 22), 520.0),
    ((-40, -60, 50), (45, 22, 22), 600.0),
)
"""Centre and half axes (slices, rows, columns) in mm, and intensity."""
FLOOR = 0.8


def case(seed: int) -> tuple[Volume, Mask]:
    """Ellipsoids that move and stretch, in noise, at a gain of their own."""
    rng = np.random.default_rng(seed)
    places = [(np.arange(n) - n / 2) * mm for n, mm in zip(GRID.shape, GRID.spacing_mm, strict=True)]

    def inside(centre: npt.ArrayLike, half: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        parts = [((p - c) / h) ** 2 for p, c, h in zip(places, np.asarray(centre), np.asarray(half), strict=True)]
        return np.asarray(parts[0][:, None, None] + parts[1][None, :, None] + parts[2] <= 1)

    image, ids = np.zeros(GRID.shape, dtype=np.float32), np.zeros(GRID.shape, dtype=np.uint8)
    image[inside(*BODY[:2])] = BODY[2]
    for number, (centre, half, value) in enumerate(ORGANS, start=1):
        found = inside(np.asarray(centre) + rng.normal(0, 6, 3), np.asarray(half) * rng.uniform(0.85, 1.15, 3))
        image[found], ids[found] = value, number
    gain = rng.uniform(0.7, 1.6)
    noisy = np.clip(image * gain + rng.normal(0, 25 * gain, GRID.shape), 0, None)
    return Volume(noisy.astype(np.int16).astype(np.float32), GRID, "MR"), Mask(ids, GRID, SCHEMA)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four cases to learn from in train/, one that is new in new/."""
    for seed in range(5):
        folder = tmp_path / ("train" if seed < 4 else "new")
        volume, mask = case(seed)
        write_volume(volume, folder / "images" / f"case{seed}.nii")
        write_mask(mask, folder / "labels" / f"case{seed}.nii")
    return tmp_path


@pytest.mark.slow
def test_the_plan_for_two_cores_learns_four_organs_in_thick_slices_within_a_minute(data: Path) -> None:
    from lib.inference.model import load_predictor
    from lib.taskfile import load_task, write_task
    from lib.workflows.evaluation import evaluate_folder, summary
    from lib.workflows.fingerprint import read_fingerprint
    from lib.workflows.offline import TrainOptions, train_folder
    from lib.workflows.planner import PlanOptions, plan_task

    learn, new = ([data / folder / kind for kind in ("images", "labels")] for folder in ("train", "new"))
    plan = plan_task(read_fingerprint(*learn, (), lambda *_: None), PlanOptions("organs"))
    write_task(plan.task, data / "organs.yaml", plan.reasons)
    task = load_task(data / "organs.yaml")
    short = replace(task, training=replace(task.training, steps=200, max_minutes=None))  # of 1500
    train_folder(*learn, short, data / "model", TrainOptions(device="cpu", holdout=0.0), lambda _: None)
    found = evaluate_folder(*new, task, load_predictor(data / "model", task, "cpu", 8), lambda *_: None)
    figures = summary(task, found)
    assert figures["mean"]["dice"] > FLOOR, figures["labels"]
