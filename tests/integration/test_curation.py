"""A cohort of a real Orthanc: found, put together, exported, and read back as what the archive holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lib.cli.main import build_app
from lib.cli.orthanc_process import OrthancProcess
from lib.dicom.nifti import read_volume
from lib.dicom.series import SourceSeries
from lib.settings import environment_of
from lib.workflows.review import submit_mask
from loop import body, install, liver_of, register_random_model, settle, upload

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

SPLITS = {"pool": "1", "calibration": "0", "promotion": "0"}


def test_what_is_found_is_exported_with_accepted_labels_alone_and_read_back(
    own_orthanc: OrthancProcess, tmp_path: Path
) -> None:
    services = install(own_orthanc, tmp_path / "var", **{f"ledger__splits__{name}": n for name, n in SPLITS.items()})
    sources = [upload(services, body(seed), f"Secret{seed}") for seed in range(3)]
    register_random_model(services, services.task(), tmp_path / "model")
    settle(services)
    task = services.task()
    for source in sources[:2]:
        submit_mask(services, task, source, liver_of(task, source.geometry), "anna")
    settle(services)
    environ = environment_of(services.settings)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(build_app(), ["curate", *arguments], env=environ)
        assert done.exit_code == 0, done.output
        return done.stdout

    strange = json.loads(run("outliers", "--all", "--json"))
    assert [one["series"] for one in strange["series"]] == [sources[2].series_uid]
    run("query", "--into", "all")
    folder = tmp_path / "Dataset501_All"
    told = json.loads(run("export", "all", str(folder), "--json"))
    assert told["counts"] == {"labelled": 2, "unlabelled": 1, "held_out": {}}
    require_same(folder, sources)
    assert not any("Secret" in path.name for path in folder.rglob("*"))
    assert "Secret" not in (folder / "manifest.json").read_text() + (folder / "dataset.json").read_text()


def require_same(folder: Path, sources: list[SourceSeries]) -> None:
    """Every exported image is its series, voxel by voxel and on its grid."""
    cases = {one["series_uid"]: one for one in json.loads((folder / "manifest.json").read_text())["cases"]}
    for source in sources:
        path = next(path for path in cases[source.series_uid]["files"] if path.startswith("images"))
        image = read_volume(folder / path, "CT")
        np.testing.assert_array_equal(image.array, source.volume.array)
        image.geometry.require_same(source.geometry, "the exported image")
