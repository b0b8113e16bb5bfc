from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import FileResponse

from lib.core.errors import NotFound
from lib.server.viewer import config_script, serve_file, shared_script


def request(accept: str = "*/*") -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "headers": [(b"accept", accept.encode())]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ohif").mkdir()
    (tmp_path / "ohif" / "index.html").write_text("start")
    (tmp_path / "ohif" / "app.bundle.0f6159c501addfe9.js").write_text("code")
    (tmp_path / "ohif" / "sw.js").write_text("importScripts('https://elsewhere')")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "ohif"


@pytest.mark.parametrize("path", ["", "segmentation", "viewer", "any/other/route"])
def test_routes_of_the_viewer_get_its_start_page(path: str, folder: Path) -> None:
    response = serve_file(folder, path, request("text/html"))
    assert isinstance(response, FileResponse)
    assert Path(response.path).name == "index.html"
    assert response.headers["cache-control"] == "no-cache"


def test_files_named_by_their_content_are_kept_forever(folder: Path) -> None:
    response = serve_file(folder, "app.bundle.0f6159c501addfe9.js", request())
    assert "immutable" in response.headers["cache-control"]


@pytest.mark.parametrize("path", ["../secret.txt", "a/../../secret.txt", "/etc/host.conf", "missing.js", "x\0.js"])
def test_nothing_outside_the_folder_is_served(path: str, folder: Path) -> None:
    with pytest.raises(NotFound):
        serve_file(folder, path, request("text/html"))


def test_data_requests_get_no_page(folder: Path) -> None:
    with pytest.raises(NotFound):
        serve_file(folder, "segmentation", request("application/json"))


def test_scripts_that_load_code_from_elsewhere_are_left_out(folder: Path) -> None:
    assert b"elsewhere" not in serve_file(folder, "sw.js", request()).body


def test_a_missing_viewer_says_how_to_get_it(tmp_path: Path) -> None:
    response = serve_file(tmp_path / "none", "", request("text/html"))
    assert response.status_code == 503
    assert b"scripts/setup" in response.body


def test_the_configuration_holds_the_panel_and_names_no_other_host() -> None:
    script = config_script()
    assert "transunet-panel" in script
    assert "window.config" in script
    assert "qidoRoot: '/dicom-web'" in script
    assert "http://" not in script
    assert "https://" not in script
    assert shared_script() in script
