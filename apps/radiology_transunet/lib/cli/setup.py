"""What set-up does after the packages: Debian parts, the viewer's files, the databases. Each step is skipped when done.

What it may not install it names in one line with the command that would.
"""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli.parts import OHIF_STAMP, OHIF_VERSION, Part, chromium_part, dicomweb_part, ohif_part, orthanc_part
from lib.core.errors import LabelError, LedgerUnavailable

if TYPE_CHECKING:
    from lib.settings import Settings

OHIF_PACKAGE = f"@ohif/app@{OHIF_VERSION}"
OHIF_SHA256 = "b189d3963bfc58e9394a9db8c7be75d07beb029ec211dbb126d47b62969dd3f1"
OHIF_FILES = "package/dist/"
DEBIAN: tuple[tuple[str, Callable[[], Part]], ...] = (
    ("orthanc", orthanc_part),
    ("orthanc-dicomweb", dicomweb_part),
    ("chromium", chromium_part),
)
REGISTRY_STAMP = "mlflow.version"


def main() -> int:
    """Prepare everything; 1 when the state cannot be prepared, else 0, also when a part is missing."""
    from lib.settings import load_settings

    try:
        settings = load_settings()
        missing = [*install_debian_parts(), *install_viewer(settings.var)]
        prepare_databases(settings)
    except LabelError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    for part in missing:
        print(f"setup: {part.name} is missing; bring it with: {part.mend}", file=sys.stderr)
    print(f"setup: ready, state in {settings.var}" + (f"; {len(missing)} parts missing" if missing else ""))
    return 0


def install_debian_parts() -> Iterator[Part]:
    """Install what is missing from Debian when allowed; yields the parts that are still missing."""
    wanted = [package for package, look in DEBIAN if not look().ok]
    if wanted and os.geteuid() == 0 and shutil.which("apt-get"):
        _apt(["update"])
        for package in wanted:
            _apt(["install", "--yes", "--no-install-recommends", package])
        _keep_service_off(wanted)
    yield from (part for package, look in DEBIAN if package in wanted and not (part := look()).ok)


def install_viewer(var: Path) -> Iterator[Part]:
    """Unpack the viewer into var/ohif; yields the part when that is not possible."""
    if ohif_part(var / "ohif").ok:
        return
    if shutil.which("npm") is None:
        yield ohif_part(var / "ohif")
        return
    print(f"setup: fetching the viewer {OHIF_PACKAGE}", flush=True)
    var.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=var, prefix=".ohif-") as scratch:
        packed = subprocess.run(["npm", "pack", "--silent", OHIF_PACKAGE], cwd=scratch, check=False)
        tarballs = list(Path(scratch).glob("*.tgz"))
        if packed.returncode or len(tarballs) != 1:
            yield ohif_part(var / "ohif")
            return
        unpack_viewer(tarballs[0], var / "ohif")


def unpack_viewer(tarball: Path, folder: Path, sha256: str = OHIF_SHA256) -> None:
    """Unpack the built viewer of an npm package into `folder`, whole or not at all.

    Raises:
        LabelError: the file is not the expected one.
    """
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if found != sha256:
        raise LabelError(f"the viewer {tarball.name} must have the SHA-256 {sha256}, got {found}; nothing was unpacked")
    fresh = tarball.parent / "fresh"
    with tarfile.open(tarball) as archive:
        for member in archive.getmembers():
            if member.name.startswith(OHIF_FILES):
                member.name = member.name.removeprefix(OHIF_FILES)
                archive.extract(member, fresh, filter="data")
    (fresh / OHIF_STAMP).write_text(f"{OHIF_VERSION}\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


def prepare_databases(settings: "Settings") -> None:
    """Bring the ledger's schema up to date and make MLflow's database, which takes it some seconds."""
    from lib.ledger.ledger import Ledger

    settings.var.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(settings.ledger.resolved_url(settings.var))
    try:
        ledger.check()
    except LedgerUnavailable:
        ledger.upgrade()
    stamp = settings.var / REGISTRY_STAMP
    if not _registry_prepared(settings, stamp):
        from lib.registry.registry import Registry

        print("setup: preparing the model registry", flush=True)
        Registry(settings.registry.located(settings.var)).prepare()
        stamp.write_text(f"{version('mlflow')}\n", encoding="utf-8")


def _registry_prepared(settings: "Settings", stamp: Path) -> bool:
    """Whether this version of MLflow has prepared the database; only that of var can be looked into."""
    if not stamp.is_file() or stamp.read_text(encoding="utf-8").strip() != version("mlflow"):
        return False
    path = settings.var / "mlflow.db"
    return bool(settings.registry.uri) or (path.is_file() and _has_table(path, "registered_models"))


def _has_table(path: Path, table: str) -> bool:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(connection.execute(query, (table,)).fetchone()[0])
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()


def _apt(arguments: list[str]) -> None:
    """Run apt-get without questions; what it could not do is seen afterwards. No service is started."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_OFFLINE": "1"}
    subprocess.run(["apt-get", "-q", *arguments], env=environment, stdout=sys.stderr, check=False)


def _keep_service_off(installed: list[str]) -> None:
    """Debian's own Orthanc service would take the port and start with the machine; nobody asked for it."""
    if "orthanc" in installed and Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "disable", "--quiet", "orthanc"], check=False)


if __name__ == "__main__":
    sys.exit(main())
