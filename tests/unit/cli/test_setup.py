import hashlib
import io
import sqlite3
import tarfile
from pathlib import Path

import pytest

from lib.cli import setup
from lib.cli.parts import OHIF_VERSION, Part, ohif_part
from lib.core.errors import LabelError

FILES = {
    "package/LICENSE": b"a licence",
    "package/dist/index.html": b"<html>",
    "package/dist/app-config.js": b"window.config = {}",
    "package/dist/assets/x.js": b"1",
}


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    path = tmp_path / "scratch" / "ohif.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_viewer_is_unpacked_from_the_built_part_of_its_package(tarball: Path, tmp_path: Path) -> None:
    var = tmp_path / "var"
    (var / "ohif").mkdir(parents=True)
    (var / "ohif" / "old.js").write_text("of an earlier version")
    setup.unpack_viewer(tarball, var / "ohif", sha256(tarball))
    found = {str(p.relative_to(var / "ohif")): p.read_bytes() for p in (var / "ohif").rglob("*") if p.is_file()}
    wanted = {name.removeprefix("package/dist/"): text for name, text in FILES.items() if "/dist/" in name}
    assert found == {**wanted, ".version": f"{OHIF_VERSION}\n".encode()}
    assert ohif_part(var / "ohif").ok


def test_a_tampered_viewer_is_not_unpacked(tarball: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"must have the SHA-256 b189d39.*, got .*; nothing was unpacked"):
        setup.unpack_viewer(tarball, tmp_path / "ohif")
    assert not (tmp_path / "ohif").exists()


def test_without_npm_the_viewer_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (part,) = setup.install_viewer(tmp_path)
    assert part.mend == "sudo apt-get install --no-install-recommends npm, then scripts/setup"


def test_without_root_missing_debian_parts_are_named_and_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Part("Orthanc", "", "any", False, "sudo apt-get install orthanc")
    present = Part("Chromium", "1", "any", True)
    monkeypatch.setattr(setup, "DEBIAN", (("orthanc", lambda: missing), ("chromium", lambda: present)))
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(setup, "_apt", lambda arguments: pytest.fail(f"ran apt-get {arguments}"))
    assert list(setup.install_debian_parts()) == [missing]


def test_as_root_only_missing_debian_parts_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = {"chromium"}
    calls: list[list[str]] = []

    def apt(arguments: list[str]) -> None:
        calls.append(arguments)
        there.add(arguments[-1])

    def look(package: str) -> Part:
        return Part(package, "", "any", package in there)

    names = ("orthanc", "orthanc-dicomweb", "chromium")
    monkeypatch.setattr(setup, "DEBIAN", tuple((name, lambda name=name: look(name)) for name in names))
    monkeypatch.setattr(setup.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(setup, "_apt", apt)
    monkeypatch.setattr(setup, "_keep_service_off", lambda installed: None)
    assert list(setup.install_debian_parts()) == []
    install = ["install", "--yes", "--no-install-recommends"]
    assert calls == [["update"], [*install, "orthanc"], [*install, "orthanc-dicomweb"]]


def test_a_registry_database_without_its_tables_is_not_taken_for_prepared(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    sqlite3.connect(path).close()
    assert not setup._has_table(path, "registered_models")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE registered_models (name TEXT)")
    connection.close()
    assert setup._has_table(path, "registered_models")
    path.write_bytes(b"no database at all, only some text that is long enough")
    assert not setup._has_table(path, "registered_models")
