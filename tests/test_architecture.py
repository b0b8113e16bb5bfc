"""The house keeps its walls: no import goes against the architecture page."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no test folder on the path

from architecture import LIB, violations

FORBIDDEN = [
    ("core/values.py", "import torch", "torch is imported in"),
    ("core/values.py", "import yaml", "core uses numpy, scipy alone"),
    ("core/values.py", "from lib.dicom import seg", "core may import core"),
    ("networks/planted.py", "from lib.inference.config import PreprocessConfig", "networks may import core"),
    ("inference/planted.py", "from lib.training import fit", "inference may import core, networks"),
    ("training/planted.py", "import lib.ledger.rows", "training may import core, inference, networks"),
    ("training/planted.py", "from lib.settings import Settings", "training may import"),
    ("training/planted.py", "import pydicom", "pydicom is imported in dicom alone"),
    ("training/planted.py", "import monai.losses", "import it inside the function"),
    ("dicom/planted.py", "from lib.ledger import rows", "dicom may import core"),
    ("dicom/planted.py", "from ..registry import config", "dicom may import core"),
    ("dicom/planted.py", "import httpx", "httpx is imported in server alone"),
    ("dicom/planted.py", "import nibabel\nimport pydicom", "must run without pydicom"),
    ("selection/planted.py", "from lib.dicom.series import assemble", "selection may import core"),
    ("ledger/planted.py", "from lib.registry.models import Registry", "ledger may import core"),
    ("registry/planted.py", "from lib.ledger.rows import JobRow", "registry may import core"),
    ("registry/planted.py", "import mlflow", "import it inside the function"),
    ("registry/planted.py", "def f():\n    import sqlalchemy", "sqlalchemy is imported in ledger alone"),
    ("workflows/planted.py", "from lib.server import app", "workflows may import"),
    ("workflows/planted.py", "from lib.cli import main", "workflows may import"),
    ("workflows/planted.py", "from lib.demo import cohort", "workflows may import"),
    ("workflows/planted.py", "import torch", "torch is imported in"),
    ("workflows/planted.py", "def f():\n    import mlflow", "mlflow is imported in registry alone"),
    ("workflows/planted.py", "import ray", "ray is imported in workflows.executor alone"),
    ("workflows/planted.py", "def f():\n    import_module('monailabel.app')", "monailabel is imported in server alone"),
    (
        "workflows/planted.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import fastapi",
        "fastapi is imported in server alone",
    ),
    ("server/planted.py", "from lib.cli import main", "server may import"),
    ("server/planted.py", "from lib.demo import cohort", "server may import"),
    ("server/planted.py", "import pydicom", "pydicom is imported in dicom alone"),
    ("server/planted.py", "def f():\n    from monai.metrics import DiceMetric", "monai is imported in"),
    ("cli/planted.py", "def f():\n    from lib.server import app", "cli may import"),
    ("cli/planted.py", "from lib.workflows import query", "inside its functions"),
    ("cli/planted.py", "import numpy", "inside its functions"),
    ("cli/planted.py", "def f():\n    import monailabel", "monailabel is imported in server alone"),
    ("demo/planted.py", "from lib.workflows import ingest", "demo may import core, dicom"),
    ("inference/planted.py", "import openvino", "openvino is imported in inference.backends alone"),
    ("inference/planted.py", "import sklearn", "sklearn is imported in selection, inference.quality alone"),
    ("settings.py", "from lib.ledger.engine import Ledger", "it may import core and each room's config"),
    ("taskfile.py", "def f():\n    from lib.networks.transunet import TransUNet", "each room's config"),
    ("strict.py", "from lib.dicom.series import assemble", "each room's config"),
    ("settings.py", "from lib.taskfile import load_task", "each room's config"),
    ("attic/old.py", "import os", "no such room"),
    ("helpers.py", "import os", "no such room"),
]

ALLOWED = [
    ("server/planted.py", "import fastapi, monailabel\nfrom lib.core import errors\nfrom lib.workflows import query"),
    ("workflows/planted.py", "from lib.settings import Settings\nfrom lib.networks.config import NetworkConfig"),
    ("workflows/executor.py", "import ray"),
    ("cli/planted.py", "import typer\nfrom rich.table import Table\nfrom lib.core.errors import NotFound\nimport json"),
    (
        "cli/planted.py",
        "def f():\n    import numpy\n    from lib.demo import cohort",
    ),
    ("cli/planted.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lib.workflows import query"),
    ("registry/planted.py", "def f():\n    import mlflow\n    from mlflow.tracking import MlflowClient"),
    ("training/planted.py", "def f():\n    from monai.losses import DiceLoss\nimport torch"),
    ("networks/peers.py", "def f():\n    from monai.networks.nets import SegResNet"),
    ("inference/backends/fast.py", "import openvino, nncf"),
    ("inference/quality.py", "from sklearn.linear_model import Ridge"),
    ("dicom/planted.py", "import nibabel\nfrom lib.core.values import Volume"),
    ("demo/planted.py", "from lib.dicom.series import assemble"),
    ("ledger/migrations/versions/0001.py", "import alembic, sqlalchemy"),
    ("settings.py", "from lib.ledger.config import LedgerConfig\nfrom lib.core.errors import InvalidSettings"),
    ("taskfile.py", "import yaml\nfrom lib.training import config"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of lib that a test may plant imports in."""
    return Path(shutil.copytree(LIB, tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__")))


def plant(tree: Path, where: str, source: str) -> None:
    path = tree / where
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else '"""Planted."""\n'
    path.write_text(f"{before}\n{source}\n")


def test_no_import_goes_against_the_architecture() -> None:
    assert violations(LIB) == []


@pytest.mark.parametrize(("where", "source", "reason"), FORBIDDEN, ids=lambda value: str(value)[:40])
def test_a_planted_forbidden_import_is_found_with_its_place_and_reason(
    tree: Path, where: str, source: str, reason: str
) -> None:
    before = violations(tree)
    plant(tree, where, source)
    new = [line for line in violations(tree) if line not in before]
    assert any(f"lib/{where.split('/')[0]}" in line and reason in line for line in new), new


@pytest.mark.parametrize(("where", "source"), ALLOWED, ids=lambda value: str(value)[:40])
def test_an_allowed_import_passes(tree: Path, where: str, source: str) -> None:
    before = violations(tree)
    plant(tree, where, source)
    assert [line for line in violations(tree) if line not in before] == []


def test_pydicom_is_also_found_behind_a_module_that_the_nibabel_user_imports(tree: Path) -> None:
    plant(tree, "dicom/planted.py", "import pydicom")
    plant(tree, "dicom/other.py", "import nibabel\nfrom lib.dicom.planted import anything")
    assert any("lib/dicom/other.py" in line and "without pydicom" in line for line in violations(tree))


def test_the_check_is_a_command_that_ends_with_1_when_something_is_forbidden(tree: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "architecture.py"), str(tree)]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    plant(tree, "core/values.py", "import torch")
    after = subprocess.run(command, capture_output=True, text=True)
    assert after.returncode == 1
    assert "lib/core/values.py" in after.stdout
    assert "torch" in after.stdout
