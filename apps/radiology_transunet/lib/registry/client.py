"""MLflow behind one door: imported late, without telemetry, its errors translated, locked databases retried."""

import logging
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lib.core.errors import NotFound, RegistryUnavailable

T = TypeVar("T")

ATTEMPTS = 6
FIRST_PAUSE_S = 0.05
MISSING = "RESOURCE_DOES_NOT_EXIST"
BUSY = "TEMPORARILY_UNAVAILABLE"
LOCK_TIMEOUT_S = 30
SQLITE_PREFIX = "sqlite:///"
PASSWORD = re.compile(r"://[^@/\s]*@")
"""The account in a URL; messages show none."""


def connect(uri: str) -> Any:
    """An MlflowClient of the registry at `uri`; takes about 5 s in a fresh process, 7 s on an empty database.

    Raises:
        RegistryUnavailable: the database cannot be opened or has another schema version.
    """
    load()
    try:
        _use_write_ahead_log(uri)
        return _opened(uri)
    except Exception as error:  # MLflow lets errors of SQLAlchemy, of drivers and of the file system through
        shown = PASSWORD.sub("://***@", f"the model registry {uri} must be a database of MLflow: {error}")
        raise RegistryUnavailable(shown) from error


def load() -> None:
    """Import MLflow, which takes seconds in a fresh process; without telemetry and chatter."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with warnings.catch_warnings():
        # MLflow 3.17 declares a loader strategy that SQLAlchemy 2.1 deprecates
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - both are what a client imports late
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def _opened(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.search_registered_models(max_results=1)
    return client


def _use_write_ahead_log(uri: str) -> None:
    """Make readers of a SQLite registry independent of writers; the database remembers it."""
    if not uri.startswith(SQLITE_PREFIX):
        return
    path = Path(uri.removeprefix(SQLITE_PREFIX))
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def call(action: Callable[[], T]) -> T:
    """Run one call of the client; a locked database is tried again, with growing pauses.

    Raises:
        NotFound: MLflow knows no such model or version.
        RegistryUnavailable: the database stays locked or fails.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(ATTEMPTS):
        try:
            return action()
        except MlflowException as error:
            if error.error_code == MISSING:
                raise NotFound(str(error)) from error
            if error.error_code != BUSY or attempt == ATTEMPTS - 1:
                raise RegistryUnavailable(f"the model registry refused ({error.error_code}): {error}") from error
        time.sleep(FIRST_PAUSE_S * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")
