"""Two processes that train together, really started by torchrun, against one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib.dicom.nifti import write_mask, write_volume
from lib.training.distributed import ALONE
from together import FITS, SCHEMA, fitted, make_case, normed

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "tests" / "together.py")
PATHS = os.pathsep.join(map(str, (ROOT / "apps" / "radiology_transunet", ROOT / "tests")))
TASK = """
name: boxes
description: Two boxes
modalities: [MR]
labels:
  - {name: bright, id: 5, color: [200, 60, 60], code: {value: "1", meaning: Bright}}
  - {name: dark, id: 3, color: [60, 60, 200], code: {value: "2", meaning: Dark}}
network: {size: tiny, context_slices: 0}
training: {steps: 4, batch_size: 4}
"""
pytestmark = pytest.mark.slow


def torchrun(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """What two processes of this machine say, and how they end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of both processes."""
    folder = tmp_path_factory.mktemp("together")
    said = torchrun(SCRIPT, folder)
    assert said.returncode == 0, said.stderr
    return folder


@pytest.mark.parametrize("name", FITS)
def test_two_processes_have_the_losses_and_weights_of_one_with_the_doubled_batch(
    name: str, together: Path, tmp_path: Path
) -> None:
    one = fitted(name, tmp_path)
    for rank in (0, 1):
        two = torch.load(together / f"{name}.{rank}.pt", weights_only=True)
        assert two["losses"] == pytest.approx(one.losses, abs=1e-4)
        assert list(two["curve"]) == [(step, pytest.approx(dice, abs=1e-3)) for step, dice in one.curve]
        assert two["dice"] == pytest.approx(one.dice, abs=1e-3)
        for key, value in one.state_dict.items():
            torch.testing.assert_close(two["state"][key], value, atol=1e-4, rtol=0)


def test_batch_norms_see_the_pictures_of_all_processes(together: Path) -> None:
    one = normed(ALONE)
    for rank in (0, 1):
        two = torch.load(together / f"normed.{rank}.pt", weights_only=True)
        assert two.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-4)
    assert one["1.running_mean"].abs().max() > 0.01


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_next_run_goes_on_from_the_checkpoint(rank: int, tmp_path: Path) -> None:
    said = torchrun(SCRIPT, tmp_path, "die", str(rank), "3")
    assert said.returncode != 0
    assert "another process of the training has ended" in said.stderr or "SIGKILL" in said.stderr
    path = tmp_path / "slices" / "checkpoint.pt"
    left = torch.load(path, weights_only=True)
    assert left["step"] == 2
    torch.save({**left, "losses": [99.0, *left["losses"][1:]]}, path)  # a mark, to be seen in what goes on from here
    resumed, whole = fitted("slices", tmp_path), fitted("slices", tmp_path / "whole")  # with one process
    assert resumed.losses == pytest.approx([99.0, *whole.losses[1:]], abs=1e-4)
    for key, value in whole.state_dict.items():
        torch.testing.assert_close(resumed.state_dict[key], value, atol=1e-4, rtol=0)


def test_the_command_train_in_two_processes_prints_once_and_leaves_one_model(tmp_path: Path) -> None:
    for number in range(4):
        case = make_case(2 * number)
        write_volume(case.volume, tmp_path / "images" / f"c{number}.nii.gz")
        write_mask(case.mask, tmp_path / "labels" / f"c{number}.nii.gz")
    (tmp_path / "boxes.yaml").write_text(TASK)
    folders = ["--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "model"]
    said = torchrun(
        *("-m", "lib.cli", "train", *folders, "--task", tmp_path / "boxes.yaml", "--no-log", "--threads", "1"),
        TRANSUNET_VAR=str(tmp_path / "var"),
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("training boxes on 4 pairs") == 1
    assert said.stdout.count("4 steps on 3 cases") == 1
    assert (tmp_path / "model" / "manifest.json").exists()
    assert all(label.name in said.stdout for label in SCHEMA)
