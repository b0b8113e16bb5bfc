"""Small real rooms: a SQLite ledger, one MLflow registry for all tests, and an archive of files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lib.core.values import Mask
from lib.dicom.seg import SegOrigin, write_seg
from lib.dicom.series import assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewHuman, NewSeries
from lib.registry.config import RegistryConfig
from lib.registry.registry import Registry
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows.services import Services
from rooms import SHAPE, FileArchive, ball

RECIPE = {"keep": "1", "steps": "1", "rate": "1", "validations": "0", "reference_every": "0"}
"""Trainings of a few steps: nothing of them is to be shortened."""
SPLITS = {"pool": "0.7", "calibration": "0.3", "promotion": "0"}
"""No promotion patients unless a test labels some: the gate then judges on the calibration patients."""
TASK = """
name: {name}
description: A bright ball in noise, and in some a small cube
modalities: [CT]
labels:
  - {{name: ball, id: 3, color: [200, 60, 60], code: {{value: "1", meaning: Ball}}}}
  - {{name: cube, id: 1, color: [60, 60, 200], code: {{value: "2", meaning: Cube}}}}
rare: [cube]
preprocess: {{window_hu: [-200, 400]}}
network: {{size: tiny, context_slices: 0}}
training: {{steps: 3, batch_size: 2, checkpoint_every: 1, ema_decay: 0.0}}
"""


@pytest.fixture(scope="session")
def shared_registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The first open of an empty database takes seconds; tests keep apart by the names of their tasks."""
    registry = Registry(RegistryConfig(uri="", models="").located(tmp_path_factory.mktemp("registry")))
    registry.prepare()
    return registry


@pytest.fixture
def services(tmp_path: Path, shared_registry: Registry) -> Services:
    """Rooms with one task of its own; three training steps, two labels needed."""
    name = f"t{new_uid().rpartition('.')[2]}"[:40]
    path = tmp_path / "task.yaml"
    path.write_text(TASK.format(name=name))
    conf = [("var", str(tmp_path / "var")), ("tasks", str(path)), ("inference.device", "cpu"), ("retrain.threads", "1")]
    conf += [(f"recipe.{name}", value) for name, value in RECIPE.items()]
    conf += [(f"ledger.splits.{name}", share) for name, share in SPLITS.items()]
    settings = load_settings(conf, environ={})
    settings.var.mkdir()
    ledger = Ledger(f"sqlite:///{settings.var}/ledger.db")
    ledger.upgrade()
    task = load_task(path)
    archive = FileArchive(tmp_path / "archive")
    return Services(settings, {task.name: task}, archive, ledger, shared_registry, b"k" * 32)  # type: ignore[arg-type]


@pytest.fixture
def add_series(services: Services) -> Callable[..., str]:
    """Put a CT series with a ball (and, when asked, a cube) into archive and ledger; its UID."""

    def add(patient: str, split: str = "pool", seed: int = 0) -> str:
        series_uid, study_uid = new_uid(), new_uid()
        identity = SeriesIdentity(patient, patient, study_uid, series_uid, new_uid(), "ball")
        services.archive.store(series_to_datasets(ball(seed)[0], identity))
        new = NewSeries(series_uid, study_uid, patient, split, "CT", "ball", SHAPE[0])
        services.ledger.series.add(new)
        services.ledger.series.set_ready(series_uid, [], identity.frame_of_reference_uid, None)
        return series_uid

    return add


@pytest.fixture
def label(services: Services, add_series: Callable[..., str]) -> Callable[..., int]:
    """A series with a person's accepted SEG in the archive; the annotation's id."""

    def make(
        patient: str, split: str = "pool", seed: int = 0, cube: bool = False, empty: bool = False, accept: bool = True
    ) -> int:
        task = services.task()
        series_uid = add_series(patient, split, seed)
        source = assemble(services.archive.fetch(series_uid))
        mask = Mask(np.where(empty, 0, ball(seed, cube)[1]), source.volume.geometry, task.schema)
        sop_uid, seg_uid = (None, None) if empty else (new_uid(), new_uid())
        if sop_uid is not None:
            origin = SegOrigin("MANUAL", "Ann", "", "", "by hand")
            services.archive.store([write_seg(mask, source, origin, sop_uid, seg_uid)])
        human = NewHuman(series_uid, task.name, "Ann", sop_uid, seg_uid, voxels=mask.voxels(), nothing_found=empty)
        return services.ledger.annotations.add_human(human, accept)

    return make
