"""The parts that an installation needs besides its Python packages: found or not, wanted, how to mend."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lib.core.errors import ArchiveUnavailable

ROOT = Path(__file__).resolve().parents[4]
LOCK = ROOT / "requirements.lock"
OHIF_VERSION = "3.13.2"
OHIF_STAMP = ".version"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
MIN_FREE_GB = 5.0
ANSWER_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the installation.

    Attributes:
        name: what it is.
        found: version or place, "" when it is missing.
        wanted: what is asked for.
        ok: whether it will do.
        mend: the command or sentence that mends it.
        required: whether the software cannot show its whole loop without it.
    """

    name: str
    found: str
    wanted: str
    ok: bool
    mend: str = ""
    required: bool = True


def apt_hint(*packages: str) -> str:
    """The command that installs Debian packages."""
    return f"sudo apt-get install --no-install-recommends {' '.join(packages)}"


def python_part() -> Part:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Part("Python", found, "3.11 or 3.12", sys.version_info[:2] in ((3, 11), (3, 12)), "scripts/setup")


def uv_part() -> Part:
    """uv, which set-up brings when it is missing; nothing else needs it."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), str(ROOT / "var" / "tools" / "bin")])
    path = shutil.which("uv", path=search)
    found = version_of(path) if path else ""
    return Part("uv", found, "any", bool(found), "scripts/setup", required=False)


def orthanc_part() -> Part:
    """Orthanc's program."""
    from lib.cli.orthanc_process import find_orthanc

    try:
        path = find_orthanc()
    except ArchiveUnavailable:
        return Part("Orthanc", "", "1.9 or newer", False, apt_hint("orthanc"))
    found = version_of(str(path))
    return Part("Orthanc", found, "1.9 or newer", _at_least(found, (1, 9)), apt_hint("orthanc"))


def dicomweb_part() -> Part:
    """Orthanc's DICOMweb plug-in."""
    from lib.cli.orthanc_process import find_plugin

    hint = apt_hint("orthanc-dicomweb")
    try:
        path = find_plugin().resolve()
    except ArchiveUnavailable:
        return Part("DICOMweb plug-in", "", "any", False, hint)
    return Part("DICOMweb plug-in", path.name.partition(".so.")[2] or str(path), "any", True, hint)


def ohif_part(folder: Path) -> Part:
    """The viewer's files."""
    stamp = folder / OHIF_STAMP
    version = stamp.read_text(encoding="utf-8").strip() if stamp.is_file() else ""
    complete = (folder / "index.html").is_file() and (folder / "app-config.js").is_file()
    mend = "scripts/setup" if shutil.which("npm") else f"{apt_hint('npm')}, then scripts/setup"
    found = version if complete else ""
    return Part("OHIF viewer", found, OHIF_VERSION, found == OHIF_VERSION, mend)


def chromium_part() -> Part:
    """The browser of the browser test."""
    path = next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)
    found = version_of(path) if path else ""
    return Part("Chromium (tests only)", found, "any", path is not None, apt_hint("chromium"), required=False)


def disk_part(var: Path) -> Part:
    """Free space where the state lies."""
    existing = next(folder for folder in (var, *var.parents) if folder.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    mend = f"free some space, or set TRANSUNET_VAR to a folder elsewhere than {var}"
    return Part("Disk space", f"{free_gb:.0f} GB free", f"{MIN_FREE_GB:.0f} GB", free_gb >= MIN_FREE_GB, mend)


def first_line(command: list[str]) -> str:
    """The first line that a program prints, "" when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout or done.stderr).splitlines()), "").strip()


def version_of(program: str) -> str:
    """The version that a program prints with --version; its path when it prints none."""
    found = re.search(r"\d+(\.\d+)+", first_line([program, "--version"]).removeprefix(program))
    return found[0] if found else program


def _at_least(version: str, wanted: tuple[int, int]) -> bool:
    numbers = re.search(r"(\d+)\.(\d+)", version)
    return numbers is None or (int(numbers[1]), int(numbers[2])) >= wanted
