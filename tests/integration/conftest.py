import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.cli.orthanc_process import OrthancProcess, free_port, start_orthanc
from lib.dicom.config import ArchiveConfig
from lib.dicom.orthanc import Archive


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancProcess]:
    """A real Orthanc on a free port, shared by the session: each test brings series of its own."""
    folder: Path = tmp_path_factory.mktemp("orthanc")
    with start_orthanc(folder, free_port(), "tester", secrets.token_urlsafe(12)) as running:
        yield running


@pytest.fixture(scope="session")
def archive(orthanc: OrthancProcess) -> Archive:
    """The session's Orthanc as the software sees it."""
    return Archive(ArchiveConfig(orthanc.dicomweb_url, orthanc.username, orthanc.password, timeout_s=20))


@pytest.fixture
def own_orthanc(tmp_path: Path) -> Iterator[OrthancProcess]:
    """A real, empty Orthanc for one test alone."""
    running = start_orthanc(tmp_path / "orthanc", free_port(), "tester", secrets.token_urlsafe(12))
    yield running
    running.kill()  # an orderly stop takes seconds


@pytest.fixture(scope="module")
def module_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancProcess]:
    """A real, empty Orthanc for the tests of one module."""
    running = start_orthanc(tmp_path_factory.mktemp("orthanc"), free_port(), "tester", secrets.token_urlsafe(12))
    yield running
    running.kill()
