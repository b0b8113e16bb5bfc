import io
import shutil
from pathlib import Path

import pytest
from starlette.datastructures import UploadFile

from lib.core.errors import InvalidInput
from lib.server.images import kept_upload, parameters, scratch_folder, series_uid


@pytest.mark.parametrize("image", ["1.2.840.1", "2.25.329800735698586629295641978511506172918"])
def test_a_series_uid_is_an_image(image: str) -> None:
    assert series_uid(image) == image


@pytest.mark.parametrize(
    "image",
    [
        "/etc/passwd",
        "../1.2.3",
        "1.2.3/../../etc",
        "C:\\x",
        "",
        "abc",
        "1",
        "1..2",
        "1.2.",
        "1." * 33 + "1",
        "1.2.3\n",
        "file:///x",
    ],
)
def test_anything_else_is_none(image: str) -> None:
    with pytest.raises(InvalidInput, match="SeriesInstanceUID"):
        series_uid(image)


def test_params_are_an_object_or_nothing() -> None:
    assert parameters('{"a": 1}') == {"a": 1}
    assert parameters("") == parameters(None) == parameters("null") == {}
    for text in ("[1]", "{", "3"):
        with pytest.raises(InvalidInput, match="JSON object"):
            parameters(text)


def test_an_upload_is_kept_under_a_name_of_ours_and_removed(tmp_path: Path) -> None:
    upload = UploadFile(io.BytesIO(b"abc"), filename="../../evil.nii.gz")
    folder = tmp_path / "emptied" / "uploads"
    with kept_upload(upload, folder) as path:
        assert path.parent == folder
        assert path.name.endswith(".nii.gz")
        assert path.read_bytes() == b"abc"
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder.parent)
    with scratch_folder(folder) as scratch:
        assert scratch.parent == folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["x.sh", "x.bin", "x", "x.nii.gz.exe"])
def test_an_upload_that_is_no_volume_by_its_name_is_refused(name: str, tmp_path: Path) -> None:
    upload = UploadFile(io.BytesIO(b"abc"), filename=name)
    with pytest.raises(InvalidInput, match=r"\.nii\.gz"), kept_upload(upload, tmp_path):
        pass
