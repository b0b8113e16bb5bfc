import json
import os
import stat
from pathlib import Path

import pytest

from lib.cli.files import write_json, write_private


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_report_is_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.json"
    write_json(path, {"series": 24})
    assert json.loads(path.read_text()) == {"series": 24}
    assert [p.name for p in path.parent.iterdir()] == ["out.json"]


def test_a_private_file_is_readable_by_its_owner_alone_whatever_lay_there_before(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    for left in (path, tmp_path / f".account.json.{os.getpid()}"):
        left.write_text("old")
        left.chmod(0o666)
    write_private(path, "secret")
    assert (path.read_text(), mode_of(path)) == ("secret", 0o600)
    write_json(tmp_path / "open.json", {})
    assert mode_of(tmp_path / "open.json") & 0o400


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_json(path, {"series": 24})
    with pytest.raises(TypeError):
        write_json(path, {"series": object()})
    assert json.loads(path.read_text()) == {"series": 24}
