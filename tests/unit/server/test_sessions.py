from pathlib import Path

import pytest

from lib.core.errors import InvalidInput, NotFound
from lib.server.sessions import Sessions


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "upload.nii.gz"
    path.write_bytes(b"image")
    return path


def test_a_session_keeps_the_image_until_nobody_used_it_for_its_time(tmp_path: Path, source: Path) -> None:
    clock = Clock()
    sessions = Sessions(tmp_path / "sessions", 100, clock)
    identifier = sessions.add(source, "brain.nii.gz", "anna").id
    clock.now_s += 90
    assert sessions.get(identifier).image.read_bytes() == b"image"  # a use
    clock.now_s += 90
    assert sessions.get(identifier).user == "anna"
    clock.now_s += 101
    with pytest.raises(NotFound):
        sessions.get(identifier)


def test_a_session_outlives_the_process(tmp_path: Path, source: Path) -> None:
    identifier = Sessions(tmp_path / "s", 100, Clock()).add(source, "a.nrrd", "anna").id
    found = Sessions(tmp_path / "s", 100, Clock()).get(identifier)
    assert (found.name, found.image.name) == ("a.nrrd", "image.nrrd")


def test_a_client_may_ask_for_less_time_but_not_for_more(tmp_path: Path, source: Path) -> None:
    sessions = Sessions(tmp_path / "s", 100, Clock())
    assert sessions.add(source, "a.nii", "x", expiry_s=10).expiry_s == 10
    assert sessions.add(source, "a.nii", "x", expiry_s=1e9).expiry_s == 100


def test_expired_images_leave_the_disk_when_the_next_one_comes(tmp_path: Path, source: Path) -> None:
    clock = Clock()
    sessions = Sessions(tmp_path / "s", 100, clock)
    old = sessions.add(source, "a.nii", "x")
    clock.now_s += 101
    sessions.add(source, "b.nii", "x")
    assert not old.image.exists()


@pytest.mark.parametrize("identifier", ["..", "../../etc", "a" * 31, "g" * 32, ""])
def test_what_is_no_id_never_becomes_a_path(identifier: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="32 hexadecimal"):
        Sessions(tmp_path, 100).get(identifier)


def test_clients_see_no_path_of_the_server(tmp_path: Path, source: Path) -> None:
    session = Sessions(tmp_path / "s", 100, Clock()).add(source, "a.nii", "x")
    assert str(tmp_path) not in str(session.public())


def test_a_removed_session_is_gone(tmp_path: Path, source: Path) -> None:
    sessions = Sessions(tmp_path / "s", 100, Clock())
    session = sessions.add(source, "a.nii", "x")
    sessions.remove(session.id)
    assert not session.image.exists()
    with pytest.raises(NotFound):
        sessions.get(session.id)
