from pathlib import Path

import pytest

from lib.registry.config import RegistryConfig
from lib.registry.registry import Registry


@pytest.fixture(scope="session")
def located(tmp_path_factory: pytest.TempPathFactory) -> RegistryConfig:
    """One prepared registry for all tests of the room (its first open takes seconds); each test has its own task."""
    config = RegistryConfig(uri="", models="").located(tmp_path_factory.mktemp("registry"))
    Registry(config).prepare()
    return config


@pytest.fixture(scope="session")
def registry(located: RegistryConfig) -> Registry:
    opened = Registry(located)
    opened.open()
    return opened


@pytest.fixture
def task(request: pytest.FixtureRequest) -> str:
    """A task's name that no other test uses."""
    return str(request.node.name)[:48]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "deep" / "manifest.json").write_text("{}")
    return folder
