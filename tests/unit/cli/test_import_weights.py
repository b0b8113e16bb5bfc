import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner, Result

import lib.networks.config
from lib.cli import import_weights
from lib.core.errors import InvalidSettings, InvalidWeights, NotFound
from lib.inference.foreign import read_weights
from lib.inference.model import load_predictor, read_manifest, read_state
from lib.networks.config import SIZES
from lib.taskfile import load_task
from reference_transunet import Layout, archive_of, reference

LAYOUT = Layout(0, (), 0, 24, 2, 3, 32, 4, 16, 20, (16, 12, 8, 8), 3)
TASK = """
name: two_labels
description: a phantom
modalities: [CT]
labels:
  - {name: a, id: 1, color: [255, 0, 0], code: {value: "1", scheme: SCT, meaning: a}}
  - {name: b, id: 2, color: [0, 255, 0], code: {value: "2", scheme: SCT, meaning: b}}
preprocess: {window_hu: [-100, 200]}
network: {size: tiny, context_slices: CONTEXT}
"""


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes "tiny" the pure transformer of the layout, so that the foreign weights fit it."""
    tiny = replace(
        SIZES["vit-b16"],
        hidden=24,
        layers=2,
        heads=3,
        mlp=32,
        position_grid=(4, 4),
        decoder_channels=(20, 16, 12, 8, 8),
    )
    monkeypatch.setattr(lib.networks.config, "SIZES", {**SIZES, "tiny": tiny})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(reference(LAYOUT).state_dict(), tmp_path / "reference.pth")
    return tmp_path / "reference.pth"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "vit.npz", **{name: value.numpy() for name, value in archive_of(reference(LAYOUT)).items()})
    return tmp_path / "vit.npz"


def task_file(folder: Path, context: int = 1) -> str:
    (folder / "two_labels.yaml").write_text(TASK.replace("CONTEXT", str(context)), encoding="utf-8")
    return str(folder / "two_labels.yaml")


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(import_weights.import_weights)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "150"})


def test_a_checkpoint_becomes_a_model_of_the_task_and_the_table_says_from_where(
    checkpoint: Path, tmp_path: Path
) -> None:
    task = task_file(tmp_path)
    result = invoke(checkpoint, "--task", task, "--out", tmp_path / "start")
    assert result.exit_code == 0, result.output
    assert re.search(r"upsampler\.head +2 +219 +segmentation_head\.0\.…", result.stdout)  # 8 x 9 x 3 + 3
    assert "not in the file, drawn from the seed: 0 numbers\n" in result.stdout
    assert f"transunet-label train --task {task} --start {tmp_path / 'start'}" in result.stdout
    head = torch.load(checkpoint, weights_only=True)["segmentation_head.0.weight"]
    assert torch.equal(read_state(tmp_path / "start")["upsampler.head.weight"], head)
    load_predictor(tmp_path / "start", load_task(task), "cpu", 1)


def test_an_archive_gives_the_encoder_and_the_decoder_follows_from_the_seed(archive: Path, tmp_path: Path) -> None:
    states = []
    for seed in (1, 1, 2):
        result = invoke(archive, "--task", task_file(tmp_path), "--out", tmp_path / "start", "--seed", seed)
        states.append(read_state(tmp_path / "start"))
    assert "numbers (upsampler.entry, upsampler.blocks, upsampler.head)" in result.stdout
    assert "5 tensors (cls, head/bias, head/kernel, pre_logits/bias, pre_logits/kernel)" in result.stdout
    assert "its decoder knows nothing yet" in result.stdout
    assert read_manifest(tmp_path / "start").seed == 2
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["upsampler.head.weight"], states[2]["upsampler.head.weight"])
    assert torch.equal(states[0]["transformer.project.weight"], states[2]["transformer.project.weight"])


def test_one_slice_gets_the_sum_of_the_kernels_of_the_colours(checkpoint: Path, tmp_path: Path) -> None:
    result = invoke(checkpoint, "--task", task_file(tmp_path, context=0), "--out", tmp_path / "start")
    assert "adapted: transformer.project.weight (24, 1, 16, 16) made from" in result.stdout
    given = torch.load(checkpoint, weights_only=True)["transformer.embeddings.patch_embeddings.weight"]
    torch.testing.assert_close(
        read_state(tmp_path / "start")["transformer.project.weight"], given.sum(dim=1, keepdim=True)
    )


def test_without_a_task_it_only_tells(checkpoint: Path) -> None:
    before = sorted(checkpoint.parent.iterdir())
    result = invoke(checkpoint, "--network", "tiny", "--channels", 5)
    assert result.exit_code == 0
    assert "(24, 5, 16, 16) made from" in result.stdout
    assert sorted(checkpoint.parent.iterdir()) == before


def test_a_head_of_other_classes_needs_the_word_for_it(tmp_path: Path) -> None:
    path = tmp_path / "nine.pth"
    torch.save(reference(replace(LAYOUT, classes=9)).state_dict(), path)
    refused = invoke(path, "--task", task_file(tmp_path))
    assert isinstance(refused.exception, InvalidWeights)
    assert "upsampler.head.weight (3, 8, 3, 3) cannot come from segmentation_head.0.weight (9, 8, 3, 3)" in str(
        refused.exception
    )
    accepted = invoke(path, "--task", task_file(tmp_path), "--fresh-head")
    assert "219 numbers (upsampler.head)" in accepted.stdout
    assert "2 tensors (segmentation_head.0.bias, segmentation_head.0.weight)" in accepted.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "base"], "--network is base, but task two_labels has network.size tiny"),
        (["--channels", "1"], "--channels is 1, but task two_labels has 3 with network.context_slices 1"),
    ],
)
def test_options_that_contradict_the_task_are_refused(
    options: list[str], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    result = invoke(checkpoint, "--task", task_file(tmp_path), *options)
    assert isinstance(result.exception, InvalidSettings)
    assert message in str(result.exception)


def test_a_folder_to_write_needs_a_task(checkpoint: Path, tmp_path: Path) -> None:
    result = invoke(checkpoint, "--network", "tiny", "--out", tmp_path / "start")
    assert isinstance(result.exception, InvalidSettings)
    assert not (tmp_path / "start").exists()


def test_wrapped_and_parallel_checkpoints_are_read_like_plain_ones(tmp_path: Path) -> None:
    plain: dict[str, Tensor] = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in plain.items()}}, tmp_path / "w")
    torch.testing.assert_close(read_weights(tmp_path / "w"), plain)


def test_weights_of_a_training_that_diverged_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.tensor([1.0, torch.nan]), "steps": torch.tensor(3)}, tmp_path / "w.pth")
    with pytest.raises(InvalidWeights, match=r"w\.pth must hold finite numbers, got others in b$"):
        read_weights(tmp_path / "w.pth")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        read_weights(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("weights", encoding="utf-8")
    torch.save({"weight": torch.ones(1), "epoch": 3}, tmp_path / "mixed.pth")
    np.savez(tmp_path / "objects.npz", weight=np.array([{"a": 1}], dtype=object))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as empty:
        empty.writestr("weight.npy", b"no array")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("text.pth", "mixed.pth", "objects.npz", "zip.npz", "cut.npz"):
        with pytest.raises(InvalidWeights, match=rf"{name} must be a PyTorch checkpoint"):
            read_weights(tmp_path / name)
