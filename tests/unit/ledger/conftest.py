import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no test folder on the path

from ledger_support import Clock, Cluster, Crew, empty_tables, postgres_folder, running_cluster

from lib.ledger.ledger import Ledger

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest schema, to copy."""
    path: Path = tmp_path_factory.mktemp("ledger") / "template.db"
    ledger = Ledger(f"sqlite:///{path}")
    ledger.upgrade()
    ledger.close()
    return path


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real PostgreSQL."""
    programs = postgres_folder()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine (initdb and postgres): Debian's package is postgresql")
    with running_cluster(programs) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_url(cluster: Cluster) -> str:
    """A PostgreSQL database with the newest schema; its tests empty the tables first."""
    url = cluster.url(cluster.create())
    ledger = Ledger(url)
    ledger.upgrade()
    ledger.close()
    return url


@pytest.fixture(params=DATABASES)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with the newest schema and nothing in it, once of each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.db")
        return f"sqlite:///{tmp_path}/ledger.db"
    url: str = request.getfixturevalue("postgres_url")
    empty_tables(url)
    return url


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    """Three processes to do things at once."""
    opened = Crew(3)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(url: str, clock: Clock) -> Iterator[Ledger]:
    """A ledger over each kind of database, its clock in the test's hands."""
    opened = Ledger(url, clock)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_ledger(sqlite_template: Path, tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    """A ledger over SQLite alone."""
    shutil.copy(sqlite_template, tmp_path / "alone.db")
    opened = Ledger(f"sqlite:///{tmp_path}/alone.db", clock)
    yield opened
    opened.close()
