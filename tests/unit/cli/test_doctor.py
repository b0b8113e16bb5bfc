import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console

from lib.cli import doctor, parts, pins
from lib.cli.parts import Part
from lib.cli.pins import Pin, read_pins
from lib.core.errors import ArchiveUnavailable, InvalidSettings, LedgerUnavailable


def shown(found: list[Part]) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(doctor.as_table(found))
    return console.export_text()


def test_pins_are_compared_with_what_is_installed() -> None:
    from importlib.metadata import version

    lock = f"""
# a comment
numpy=={version("numpy")}
    # via somebody
PyYAML==0.0.1
no-such-package==1.2 ; sys_platform == 'linux'
colorama==0.4.6 ; sys_platform == 'win32'
./compat/pydicom_seg
"""
    found = read_pins(lock)
    assert [(pin.name, pin.wanted, pin.met) for pin in found] == [
        ("numpy", version("numpy"), True),
        ("pyyaml", "0.0.1", False),
        ("no-such-package", "1.2", False),
    ]
    assert found[2].found == ""


def test_a_local_build_of_the_pinned_version_will_do() -> None:
    assert Pin("torch", "2.15.0", "2.15.0+cpu").met
    assert not Pin("torch", "2.15.0", "2.15.1").met


def test_the_pin_check_names_what_differs_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("no-such-package==1.2\n")
    monkeypatch.setattr(sys, "argv", ["pins", str(lock)])
    assert pins.main() == 1
    assert capsys.readouterr().out == "setup: no-such-package is missing, wanted 1.2\n"
    lock.write_text("")
    assert pins.main() == 0


def test_packages_that_matter_stand_alone_and_all_others_are_counted() -> None:
    found = list(
        doctor.package_parts((Pin("torch", "2.15.0", "2.14.0"), Pin("numpy", "1.26.4", "1.26.4"), Pin("zipp", "4", "")))
    )
    assert [(part.name, part.ok) for part in found] == [("torch", False), ("numpy", True), ("all packages", False)]
    assert found[-1].found == "1 as pinned; not so: torch 2.14.0, zipp missing"
    assert found[-1].wanted == "3 as pinned"


def test_the_table_shows_found_wanted_and_how_to_mend_what_is_broken() -> None:
    text = shown(
        [
            Part("Orthanc", "", "1.9 or newer", False, "sudo apt-get install orthanc"),
            Part("Python", "3.11.7", "3.11 or 3.12", True, "scripts/setup"),
        ]
    )
    orthanc, python = (next(line for line in text.splitlines() if name in line) for name in ("Orthanc", "Python"))
    assert "missing" in orthanc
    assert "sudo apt-get install orthanc" in orthanc
    assert "3.11.7" in python
    assert "scripts/setup" not in python


def test_a_viewer_of_another_version_or_without_its_page_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "ohif"
    assert not parts.ohif_part(folder).ok
    folder.mkdir()
    for name in ("index.html", "app-config.js"):
        (folder / name).write_text("")
    (folder / parts.OHIF_STAMP).write_text("3.0.0\n")
    assert (parts.ohif_part(folder).found, parts.ohif_part(folder).ok) == ("3.0.0", False)
    (folder / parts.OHIF_STAMP).write_text(f"{parts.OHIF_VERSION}\n")
    assert parts.ohif_part(folder).ok
    (folder / "index.html").unlink()
    assert (parts.ohif_part(folder).found, parts.ohif_part(folder).ok) == ("", False)


def test_a_missing_program_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("lib.cli.orthanc_process.BINARY_FOLDERS", ())
    part = parts.orthanc_part()
    assert (part.found, part.ok) == ("", False)
    assert part.mend == "sudo apt-get install --no-install-recommends orthanc"
    assert parts.chromium_part().mend.endswith(" chromium")
    assert not parts.chromium_part().required


def test_a_version_is_found_in_what_a_program_prints(tmp_path: Path) -> None:
    program = tmp_path / "tool-3.1"
    program.write_text(f"#!/bin/sh\necho '{program} 1.10.1 built on Debian 12'\n")
    program.chmod(0o755)
    assert parts.version_of(str(program)) == "1.10.1"
    program.write_text("#!/bin/sh\necho mainline\n")
    assert parts.version_of(str(program)) == str(program)  # found, though it tells no version


def test_disk_space_is_looked_up_where_the_state_will_lie(tmp_path: Path) -> None:
    part = parts.disk_part(tmp_path / "not" / "yet" / "there")
    assert part.found.endswith("GB free")
    assert part.wanted == "5 GB"


def services(archive: object = None, ledger: object = None, champion: object = None) -> SimpleNamespace:
    settings = SimpleNamespace(archive=SimpleNamespace(url="http://127.0.0.1:1/dicom-web"))
    registry = SimpleNamespace(champion=lambda task: champion)
    return SimpleNamespace(settings=settings, archive=archive, ledger=ledger, registry=registry)


def test_an_archive_that_is_away_is_said_with_its_address_and_reason() -> None:
    def away() -> None:
        raise ArchiveUnavailable("connection refused")

    part = doctor.archive_part(services(archive=SimpleNamespace(check=away)))
    assert not part.ok
    assert part.required
    assert part.found == "away: connection refused"
    assert "TRANSUNET_ARCHIVE__URL" in part.mend
    assert part.wanted == "http://127.0.0.1:1/dicom-web"


def test_a_ledger_of_another_schema_is_said_in_its_own_words() -> None:
    def old() -> None:
        raise LedgerUnavailable("must have schema version 3, got 1")

    part = doctor.ledger_part(services(ledger=SimpleNamespace(check=old)))
    assert (part.ok, part.found) == (False, "must have schema version 3, got 1")


def test_a_task_without_a_champion_is_no_fault_but_says_how_to_train_one() -> None:
    part = doctor.champion_part(services(), "phantom_ct")
    assert (part.ok, part.required) == (False, False)
    assert "transunet-label retrain --task phantom_ct" in part.mend
    assert doctor.champion_part(services(champion=SimpleNamespace(version=4)), "phantom_ct").found == "version 4"


def test_a_device_that_this_machine_lacks_is_a_fault() -> None:
    assert doctor.gpu_part("cpu").ok
    part = doctor.gpu_part("cuda:7")
    assert not part.ok
    assert "device must be" in part.mend


@pytest.mark.parametrize(("required", "status"), [(True, 1), (False, None)])
def test_the_exit_code_is_1_only_when_a_needed_part_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: bool, status: int | None
) -> None:
    part = Part("the part", "", "1", False, "mend it", required=required)
    monkeypatch.setattr(doctor, "examine", lambda settings: iter([part]))
    if status is None:
        doctor.doctor()
        assert "everything needed is in place" in capsys.readouterr().out
        return
    with pytest.raises(typer.Exit) as ended:
        doctor.doctor()
    assert ended.value.exit_code == status
    assert "needs care: the part" in capsys.readouterr().out


def test_the_real_installation_is_examined_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib.settings import load_settings

    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = load_settings(environ={"TRANSUNET_VAR": str(tmp_path), "TRANSUNET_ARCHIVE__URL": "http://127.0.0.1:9/x"})
    found = {part.name: part for part in doctor.examine(settings)}
    assert found["Python"].ok
    assert found["all packages"].ok
    assert not found["OHIF viewer"].ok
    assert not found["ledger"].ok
    assert not found["model registry"].ok
    assert not found["archive"].ok
    assert not [name for name in found if name.startswith("model of")]  # nobody to ask without a registry
    assert found["Orthanc"].required


def test_an_archive_that_answers_and_a_viewer_elsewhere_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib.settings import load_settings

    logging.getLogger("alembic").setLevel(logging.WARNING)
    viewer, answering = tmp_path / "viewer", parts.Part("archive", "Orthanc 1.10", "http://pacs", True)
    viewer.mkdir()
    for name, text in {"index.html": "", "app-config.js": "", parts.OHIF_STAMP: parts.OHIF_VERSION}.items():
        (viewer / name).write_text(text)
    monkeypatch.setattr(doctor, "archive_part", lambda services: answering)
    monkeypatch.setattr("lib.cli.orthanc_process.BINARY_FOLDERS", ())
    monkeypatch.setenv("PATH", "")
    environ = {"TRANSUNET_VAR": str(tmp_path / "var"), "TRANSUNET_SERVER__VIEWER": str(viewer)}
    found = {part.name: part for part in doctor.examine(load_settings(environ=environ))}
    assert (found["Orthanc"].ok, found["Orthanc"].required) == (False, False)
    assert not found["DICOMweb plug-in"].required
    assert found["OHIF viewer"].ok


def test_a_ledger_of_another_key_is_named_and_no_command_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib.cli.context import current_services, current_settings
    from lib.workflows.services import open_services

    monkeypatch.setenv("TRANSUNET_VAR", str(tmp_path))
    monkeypatch.delenv("TRANSUNET_LEDGER__PSEUDONYM_KEY", raising=False)
    services = current_services()
    assert doctor.ledger_part(services).ok
    monkeypatch.setenv("TRANSUNET_LEDGER__PSEUDONYM_KEY", (tmp_path / "pseudonym.key").read_text().strip())
    with pytest.raises(InvalidSettings, match="the text of that file in the variable is another key"):
        current_services()
    part = doctor.ledger_part(open_services(current_settings()))
    assert not part.ok
    assert "pseudonym key" in part.found
