from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.cli.model_choice import choose
from lib.core.errors import InvalidTask, NoChampion
from lib.core.geometry import Geometry
from lib.core.values import Volume
from lib.inference.model import Manifest, build_network, save_model
from lib.networks.config import NetworkConfig
from lib.taskfile import Task, load_task, write_task


def test_a_model_of_a_task_of_ones_own_asks_for_the_file_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSUNET_VAR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "knee.yaml"
    write_task(load_task("hippocampus_mr"), file, {})
    file.write_text(file.read_text().replace("hippocampus_mr", "knee"))
    save_model(tmp_path / "model", Manifest.describe(load_task(file), seed=0), {})
    with pytest.raises(InvalidTask, match="model is for task knee; name its file with --task"):
        choose([tmp_path / "model"], "", "cpu")


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A small task in a file of another name, where no model serves."""
    monkeypatch.setenv("TRANSUNET_VAR", str(tmp_path / "var"))
    monkeypatch.setattr("lib.registry.registry.Registry.champion", lambda *_: None)
    (tmp_path / "mine.yaml").write_text(
        "name: knee\ndescription: A knee\nmodalities: [MR]\nlabels:\n"
        "  - {name: bone, id: 1, color: [1, 2, 3], code: {value: '1', meaning: Bone}}\n"
    )
    return load_task(tmp_path / "mine.yaml")


def save(folder: Path, task: Task, seed: int, files: tuple[str, ...] = ()) -> Manifest:
    torch.manual_seed(seed)
    state = build_network(task.network, task.schema).state_dict()
    return save_model(folder, Manifest.describe(task, seed=seed, files=files), state)


def test_without_a_champion_the_model_that_train_left_is_taken_and_named(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "var" / "offline" / "knee"
    saved = save(folder, task, 0, ("ab", "cd"))
    choice = choose([], str(tmp_path / "mine.yaml"), "cpu")
    assert (choice.folders, choice.version) == ((folder,), saved.sha256[:12])
    assert choice.words == f"no model serves task knee; taking model {saved.sha256[:12]} of `train` in {folder}"
    assert choice.learned_files == {"ab", "cd"}


def test_a_model_of_train_that_does_not_fit_is_not_taken_and_the_hint_names_the_file(
    task: Task, tmp_path: Path
) -> None:
    given = str(tmp_path / "mine.yaml")
    hint = f"transunet-label train --task {given} --images DIR --labels DIR"
    with pytest.raises(NoChampion, match=f"must be a model folder.*{hint}"):
        choose([], given, "cpu")
    save(tmp_path / "var" / "offline" / "knee", replace(task, network=NetworkConfig(context_slices=0)), 0)
    with pytest.raises(NoChampion, match=f"network.context_slices = 1, this one has 0.*{hint}"):
        choose([], given, "cpu")


def test_several_folders_answer_as_one_model(task: Task, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        save(folder, task, seed, (f"file {seed}",))
    choice = choose(folders, str(tmp_path / "mine.yaml"), "cpu")
    volume = Volume(
        np.random.default_rng(0).normal(0, 1, (2, 16, 16)), Geometry.from_spacing((2, 16, 16), (1, 1, 1)), "MR"
    )
    shown: list[list[np.ndarray]] = []
    for predictor in (
        choice.predictor,
        *(choose([one], str(tmp_path / "mine.yaml"), "cpu").predictor for one in folders),
    ):
        parts: list[np.ndarray] = []
        predictor.predict(volume, on_probabilities=lambda _, found, parts=parts: parts.append(found.copy()))
        shown.append(parts)
    mean, first, second = (np.concatenate(parts) for parts in shown)
    np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-6)
    assert choice.version.startswith("2x")
    assert choice.learned_files == {"file 0", "file 1"}
