import subprocess
import sys
from pathlib import Path

import pytest

from lib.core.errors import InvalidSettings
from lib.server.config import ServerConfig
from lib.server.context import open_context, server_settings

MONAI_LABEL = {
    "MONAI_LABEL_STUDIES": "http://pacs:8042/dicom-web",
    "MONAI_LABEL_DICOMWEB_USERNAME": "reader",
    "MONAI_LABEL_DICOMWEB_PASSWORD": "secret",
}


def test_the_archive_of_monai_labels_command_line_is_ours() -> None:
    archive = server_settings(MONAI_LABEL).archive
    assert (archive.url, archive.username, archive.password) == ("http://pacs:8042/dicom-web", "reader", "secret")


def test_our_own_options_win_and_a_folder_is_no_archive() -> None:
    own = {"TRANSUNET_ARCHIVE__URL": "http://mine:1/dicom-web", **MONAI_LABEL}
    assert server_settings(own).archive.url == "http://mine:1/dicom-web"
    assert server_settings({"MONAI_LABEL_STUDIES": "/data"}).archive.url == "http://127.0.0.1:8042/dicom-web"


def test_the_application_needs_neither_monailabel_nor_torch_nor_mlflow_to_start() -> None:
    code = (
        "import sys; from uvicorn.importer import import_from_string as load; load('lib.server.asgi:app');"
        "print([name for name in ('monailabel', 'monai', 'torch', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "value"), [("port", 70000), ("threads", 0), ("max_upload_mb", 0)])
def test_impossible_options_are_refused(name: str, value: int) -> None:
    good = {
        "host": "127.0.0.1",
        "port": 8000,
        "allowed_hosts": (),
        "password": "secret",
        "threads": 1,
        "max_waiting": 1,
        "max_upload_mb": 1,
        "session_expiry_s": 60.0,
        "public_url": "",
        "viewer": "",
    }
    assert "secret" not in repr(ServerConfig(**good))  # type: ignore[arg-type]
    with pytest.raises(InvalidSettings, match=name):
        ServerConfig(**{**good, name: value})  # type: ignore[arg-type]


def test_the_viewer_lies_in_the_state_folder_unless_another_is_named(tmp_path: Path) -> None:
    usual = server_settings({"TRANSUNET_VAR": str(tmp_path)})
    assert open_context(usual).viewer == tmp_path / "ohif"
    named = server_settings({"TRANSUNET_VAR": str(tmp_path), "TRANSUNET_SERVER__VIEWER": "/opt/ohif"})
    assert open_context(named).viewer == Path("/opt/ohif")
