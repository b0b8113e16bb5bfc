from pathlib import Path

import pytest

from lib.cli.model_choice import choose
from lib.core.errors import InvalidTask
from lib.inference.model import Manifest, save_model
from lib.taskfile import load_task, write_task


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
        choose(tmp_path / "model", "", "cpu")
