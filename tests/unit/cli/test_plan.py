from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lib.cli.main import build_app
from lib.core.errors import InvalidInput
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.dicom.nifti import write_mask, write_volume
from lib.taskfile import load_task

SCHEMA = LabelSchema((Label("ball", 1, (1, 2, 3), Code("1", "Ball")),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A case in "Left Knee 7/images" and "Left Knee 7/labels"."""
    folder = tmp_path / "Left Knee 7"
    grid = Geometry.from_spacing((12, 20, 18), (1.0, 1.0, 1.0))
    ids = np.zeros(grid.shape, dtype=np.uint8)
    ids[4:8, 5:12, 5:12] = 1
    write_volume(Volume(100.0 * ids, grid, "MR"), folder / "images" / "a.nii.gz")
    write_mask(Mask(ids, grid, SCHEMA), folder / "labels" / "a.nii.gz")
    return folder


def plan(folder: Path, *more: str) -> Result:
    given = ["plan", "--images", str(folder / "images"), "--labels", str(folder / "labels"), *more]
    return CliRunner().invoke(build_app(), given, catch_exceptions=True)


def test_a_plan_is_written_under_the_name_of_the_folder_and_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    done = plan(folder, "--names", "ball")
    assert done.exit_code == 0, done.output
    task = load_task(folder / "left_knee_7.yaml")
    assert (task.name, task.schema.names, task.network.patch) == ("left_knee_7", ("ball",), (12, 20, 20))
    assert "1 x 1 x 1" in done.output
    assert "transunet3d" in done.output
    assert f"--images '{folder / 'images'}' --labels '{folder / 'labels'}' --task left_knee_7.yaml" in done.output


def test_a_task_file_is_not_replaced_unless_asked(folder: Path) -> None:
    out = folder / "knee.yaml"
    out.write_text("mine")
    refused = plan(folder, "--out", str(out)).exception
    assert isinstance(refused, InvalidInput)
    assert "is there already" in str(refused)
    assert out.read_text() == "mine"
    assert plan(folder, "--out", str(out), "--force", "--dimensions", "2").exit_code == 0
    task = load_task(out)
    assert (task.name, task.network.kind) == ("knee", "transunet")


def test_a_file_of_another_kind_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    refused = plan(tmp_path / "nowhere", "--out", str(tmp_path / "task.json")).exception
    assert isinstance(refused, InvalidInput)
    assert "ends in .yaml or .yml" in str(refused)
