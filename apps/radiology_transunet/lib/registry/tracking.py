"""What a training was and how it went, as a run of MLflow.

A run is written at once when the training is over: its numbers in a few batches, everything else as files in the run's
folder. So a training never waits for the database, and what cannot be written costs the record alone.
"""

import json
import math
import posixpath
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from lib.core.errors import InvalidInput, RegistryUnavailable
from lib.registry.client import call, connect, load
from lib.registry.config import RegistryConfig
from lib.registry.folders import exclusive

T = TypeVar("T")

RUNS_NAME = "runs"
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
PARAM_LENGTH = 6000
"""MLflow refuses more."""
ODD = re.compile(r"[^\w/.\- ]")
"""What a name in MLflow may not hold."""

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One training.

    Attributes:
        task: name of the task; its runs stand together.
        name: of the run, for people.
        config: the task as plain values; its leaves become parameters, the whole a file.
        curves: (step, value) of what was followed, for example "loss", "rate", "dice".
        metrics: what was measured at the end, by name.
        environment: packages, hardware, commit.
        cases: one row a case: name, patient, split, checksums.
        pictures: PNG files by name without suffix.
        tags: what to remember beside.

    Raises:
        InvalidInput: a record without task or name.
    """

    task: str
    name: str
    config: Mapping[str, Any]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    cases: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.task or not self.name:
            raise InvalidInput(f"a run needs a task and a name, got {self.task!r} and {self.name!r}")


class RunLog:
    """Writes runs; connects at the first one (about 5 s in a fresh process).

    Args:
        config: the registry's, both places filled in; runs go to its database.
        artifacts: folder for the files of all runs, `RUNS_NAME` in the state folder.
    """

    def __init__(self, config: RegistryConfig, artifacts: Path) -> None:
        self._config = config
        self._artifacts = artifacts
        self._opening = threading.Lock()
        self._client: Any = None

    def write(self, record: RunRecord) -> str:
        """Write a run.

        Returns:
            Its id.

        Raises:
            RegistryUnavailable: the database or the folder refuses; what was written until then is marked as failed.
        """
        self._open()
        experiment = self._experiment(record.task)
        run = call(lambda: self._client.create_run(experiment, run_name=record.name, tags=dict(record.tags)))
        run_id = str(run.info.run_id)
        try:
            self._write_numbers(run_id, record)
            self._write_files(run_id, record)
        except BaseException:
            call(lambda: self._client.set_terminated(run_id, "FAILED"))
            raise
        call(lambda: self._client.set_terminated(run_id, "FINISHED"))
        return run_id

    def _open(self) -> None:
        with self._opening:
            if self._client is None:
                load()
                with exclusive(Path(self._config.models)):  # the lock of the registry: both may create the tables
                    self._client = connect(self._config.uri)

    def _experiment(self, task: str) -> str:
        """The id of the task's experiment, made when it is missing."""
        with exclusive(Path(self._config.models)):
            found = call(lambda: self._client.get_experiment_by_name(task))
            if found is not None:
                return str(found.experiment_id)
            place = (self._artifacts / task).resolve().as_uri()
            return str(call(lambda: self._client.create_experiment(task, artifact_location=place)))

    def _write_numbers(self, run_id: str, record: RunRecord) -> None:
        from mlflow.entities import Metric, Param

        now_ms = int(time.time() * 1000)
        params = [Param(name, text) for name, text in flat(record.config)]
        metrics = [Metric(name, value, now_ms, step) for name, step, value in _points(record)]
        for some in _batches(params, PARAMS_A_BATCH):
            call(partial(self._client.log_batch, run_id, params=some))
        for some in _batches(metrics, METRICS_A_BATCH):
            call(partial(self._client.log_batch, run_id, metrics=some))

    def _write_files(self, run_id: str, record: RunRecord) -> None:
        with TemporaryDirectory(prefix="run-") as folder:
            for name, values in (("task", record.config), ("environment", record.environment), ("data", record.cases)):
                text = json.dumps(values, indent=2, ensure_ascii=False, default=str)
                (Path(folder) / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            for name, png in record.pictures.items():
                path = Path(folder) / "pictures" / f"{ODD.sub('_', name).replace('/', '_')}.png"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(png)
            try:
                call(lambda: self._client.log_artifacts(run_id, folder))
            except OSError as error:
                raise RegistryUnavailable(f"the files of a run must go to {self._artifacts}: {error}") from error


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a tree of plain values as (dotted name, text) pairs; lists are one leaf, in JSON.

    Texts that MLflow would refuse for their length end with an ellipsis.
    """
    for key, value in values.items():
        name = f"{prefix}{ODD.sub('_', str(key))}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        yield name, text if len(text) <= PARAM_LENGTH else f"{text[: PARAM_LENGTH - 1]}…"


def metric_name(name: str) -> str:
    """A name that MLflow takes: other characters become underscores, and the path that it is goes straight down."""
    parts = [part for part in ODD.sub("_", name).split("/") if part.strip(". ")]
    return posixpath.join(*parts) if parts else "_"


def _points(record: RunRecord) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of curves and final figures; what is no finite number is left out."""
    for name, curve in record.curves.items():
        yield from ((metric_name(name), step, float(value)) for step, value in curve if math.isfinite(value))
    last = max((curve[-1][0] for curve in record.curves.values() if curve), default=0)
    final = ((metric_name(name), last, float(value)) for name, value in record.metrics.items())
    yield from (point for point in final if math.isfinite(point[2]))


def _batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(values)
    while some := list(islice(source, size)):
        yield some
