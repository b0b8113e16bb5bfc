"""What the tests of the loop share: an installation on a real Orthanc, small series, a seeded random model."""

import atexit
import shutil
import sqlite3
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from lib.cli.orthanc_process import OrthancProcess
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.dicom.series import SourceSeries, assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets
from lib.inference.model import Manifest, build_network, save_model
from lib.registry.config import RegistryConfig
from lib.registry.registry import Registry
from lib.settings import load_settings
from lib.taskfile import Task
from lib.workflows.ingest import reconcile
from lib.workflows.jobrunner import JobRunner
from lib.workflows.jobs import BACKGROUND
from lib.workflows.models import ChampionCache
from lib.workflows.presegment import deliver_outbox
from lib.workflows.services import Services, open_services

GRID = Geometry.from_spacing((6, 32, 48), (3.0, 2.8, 2.8), origin_mm=(-60.0, -40.0, 100.0))


def conf_of(orthanc: OrthancProcess, var: Path, **more: str) -> list[tuple[str, str]]:
    """Options of an installation in `var` on that Orthanc; keywords use __ for the dot."""
    own = {
        "var": str(var),
        "archive.url": orthanc.dicomweb_url,
        "archive.username": orthanc.username,
        "archive.password": orthanc.password,
        "archive.timeout_s": "10",
        "inference.threads": "1",
        "retrain.threads": "1",
        "review.hold_back": "false",  # the models here are random: what is made of their drafts looks like a mistake
    }
    return list((own | {key.replace("__", "."): value for key, value in more.items()}).items())


def install(orthanc: OrthancProcess, var: Path, **more: str) -> Services:
    """An installation, empty unless `var` holds one."""
    var.mkdir(exist_ok=True)
    if not (var / "mlflow.db").exists():
        with sqlite3.connect(_empty_registry()) as empty, sqlite3.connect(var / "mlflow.db") as own:
            empty.backup(own)  # a copy of the file would miss its write-ahead log
    services = open_services(load_settings(conf_of(orthanc, var, **more), {}))
    services.ledger.upgrade()
    return services


@cache
def _empty_registry() -> Path:
    """A prepared MLflow database to copy: making one takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="registry-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    registry = Registry(RegistryConfig("", "").located(folder))
    registry.prepare()
    return folder / "mlflow.db"


def body(seed: int = 0, geometry: Geometry = GRID) -> Volume:
    """A small CT: a soft box in air, with noise."""
    rng = np.random.default_rng(seed)
    values = np.full(geometry.shape, -1000.0)
    values[:, 4:-4, 6:-6] = 40.0
    return Volume(np.round(values + rng.normal(0, 10, geometry.shape)).clip(-1024, 3000), geometry, "CT")


def liver_of(task: Task, geometry: Geometry, columns: slice = slice(10, 20)) -> Mask:
    """A box of liver and a little spleen."""
    array = np.zeros(geometry.shape, np.uint8)
    array[1:4, 8:16, columns] = task.schema.find("liver").id
    array[2:5, 8:12, 30:34] = task.schema.find("spleen").id
    return Mask(array, geometry, task.schema)


def upload(services: Services, volume: Volume, patient: str, description: str = "phantom") -> SourceSeries:
    """Store a series of that patient; the series as the archive has it."""
    identity = SeriesIdentity(
        patient_id=patient,
        patient_name=f"Test^{patient}",
        study_uid=new_uid(),
        series_uid=new_uid(),
        frame_of_reference_uid=new_uid(),
        description=description,
    )
    datasets = series_to_datasets(volume, identity)
    services.archive.store(datasets)
    return assemble(services.archive.fetch(identity.series_uid))


def register_random_model(services: Services, task: Task, folder: Path, seed: int = 0) -> int:
    """A seeded random version as the champion: it draws something, never the truth."""
    import torch

    torch.manual_seed(seed)
    network = build_network(task.network, task.schema)
    save_model(folder, Manifest.describe(task, seed, {}, ()), network.state_dict())
    version = services.registry.register(task.name, folder, {})
    services.registry.promote(task.name, version)
    return version


def settle(services: Services) -> None:
    """Compare the archive with the ledger and do every job, as the worker would, until nothing is left."""
    runner = JobRunner(services, ChampionCache(services), "test")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = reconcile(services)
        while runner.one_job() or deliver_outbox(services):
            continue
        if not found.any and not services.ledger.outbox.open_count():
            open_jobs = [row for row in services.ledger.jobs.list(limit=1000) if row.state in ("queued", "running")]
            if not any(row.kind in BACKGROUND for row in open_jobs):
                return
        time.sleep(0.1)
    raise AssertionError(f"jobs are left: {services.ledger.jobs.list()}")
