import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lib.cli.main import build_app
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.dicom.nifti import write_mask, write_volume

README = Path(__file__).parents[3] / "apps" / "radiology_transunet" / "README.md"
SCHEMA = LabelSchema(tuple(Label(f"label {n}", n, (n, n, n), Code("1", "x")) for n in (1, 2)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images of thick slices with two boxes."""
    grid = Geometry.from_spacing((9, 32, 32), (5.0, 1.5, 1.5))
    ids = np.zeros(grid.shape, dtype=np.uint8)
    ids[2:6, 4:14, 6:20], ids[4:8, 18:28, 8:24] = 1, 2
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(0, 10, ids.shape)
        write_volume(Volume((100.0 * ids + noise).astype(np.float32), grid, "MR"), tmp_path / f"images/{seed}.nii.gz")
        write_mask(Mask(ids, grid, SCHEMA), tmp_path / f"labels/{seed}.nii.gz")
    return tmp_path


def lines_of_a_new_label_set() -> list[str]:
    """Of the first block of commands under that heading."""
    section = README.read_text(encoding="utf-8").partition("## A new label set")[2]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block.group(1).splitlines()


def run(line: str) -> Result:
    program, *words = shlex.split(line.replace("DIR", "images", 1).replace("DIR", "labels", 1))
    assert program.endswith("transunet-label")
    return CliRunner().invoke(build_app(), words)


@pytest.mark.slow
def test_the_lines_of_the_readme_work_one_after_the_other(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    monkeypatch.setenv("TRANSUNET_VAR", str(data / "var"))
    plan, train, evaluate = lines_of_a_new_label_set()
    planned = run(plan)
    assert planned.exit_code == 0, planned.output
    text = (data / "mine.yaml").read_text()
    assert "\nname: mine\n" in text
    (data / "mine.yaml").write_text(re.sub(r"steps: \d+", "steps: 2", text))  # minutes are not needed here
    trained = run(train)
    assert trained.exit_code == 0, (trained.output, trained.exception)
    measured = run(evaluate)
    assert measured.exit_code == 0, (measured.output, measured.exception)
    assert "no model serves task mine; taking model" in measured.output
    assert "the model has learned from 3 of these 4 cases" in measured.output
    assert (data / "result.json").is_file()
