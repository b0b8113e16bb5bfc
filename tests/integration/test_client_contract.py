"""MONAI Label's own client against the real server, and the app under MONAI Label's own command."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from lib.cli.orthanc_process import OrthancProcess
from lib.dicom.series import SourceSeries
from lib.server.volumefiles import read_labels, write_labels
from lib.workflows import query
from lib.workflows.services import Services
from loop import body, conf_of, install, liver_of, register_random_model, settle, upload
from serving import APP, Serving, eventually, free_port, launch, outside, serve

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports cgi
    from monailabel.client import MONAILabelClient
    from monailabel.client.client import MONAILabelClientException

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the client leaves its connections to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def installed(
    module_orthanc: OrthancProcess, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Services, list[SourceSeries], Path]:
    """Three ready series with drafts of a random model."""
    folder = tmp_path_factory.mktemp("contract")
    services = install(module_orthanc, folder / "var")
    sources = [upload(services, body(number), f"P{number}") for number in range(3)]
    register_random_model(services, services.task(), folder / "model")
    settle(services)
    query.refresh_queues(services, services.task())
    return services, sources, folder


@pytest.fixture(scope="module")
def serving(module_orthanc: OrthancProcess, installed: tuple[Services, list[SourceSeries], Path]) -> Iterator[Serving]:
    _, _, folder = installed
    with serve(conf_of(module_orthanc, folder / "var"), folder, "--no-worker") as running:
        yield running


@pytest.fixture
def client(serving: Serving, tmp_path: Path) -> MONAILabelClient:
    return MONAILabelClient(serving.url, tmpdir=str(tmp_path), client_id="anna")


def source_of(installed: tuple[Services, list[SourceSeries], Path], uid: str) -> SourceSeries:
    return next(source for source in installed[1] if source.series_uid == uid)


def test_the_client_learns_what_there_is(client: MONAILabelClient) -> None:
    info = client.info()
    assert info["models"]["phantom_ct"]["labels"]["spleen"] == 3
    assert info["datastore"]["total"] == 3
    assert client.auth_enabled() is False


def test_the_client_walks_a_case_from_next_sample_to_saved_label(
    client: MONAILabelClient, installed: tuple[Services, list[SourceSeries], Path], tmp_path: Path
) -> None:
    services = installed[0]
    sample = client.next_sample("entropy", {})
    source = source_of(installed, sample["id"])
    path, params = client.infer("phantom_ct", sample["id"], {})
    read = read_labels(Path(path))
    assert read.geometry.is_close(source.geometry)
    assert set(np.unique(read.array)) - {0} == set(params["label_names"].values())
    assert params["latencies"]["total"] > 0
    mask = liver_of(services.task(), source.geometry)
    write_labels(mask.array, mask.geometry, tmp_path / "mine.nii.gz")
    saved = client.save_label(sample["id"], str(tmp_path / "mine.nii.gz"), params={})
    assert saved["image"] == sample["id"]
    row = services.ledger.annotations.get(saved["annotation"])
    assert (row.author, row.status, row.origin) == ("anna", "accepted", "human")
    assert row.parent_id is not None
    assert row.changed_voxels == int((mask.array != read.array).sum())
    settle(services)
    back = client.download_label(saved["label"], "final")
    assert np.array_equal(read_labels(Path(back)).array, mask.array)
    assert client.datastore()["objects"][sample["id"]]["labels"]["final"]["info"]["author"] == "anna"
    assert client.next_sample("entropy", {})["id"] != sample["id"]


def test_the_client_starts_watches_and_stops_a_training(client: MONAILabelClient) -> None:
    assert client.train_status(check_if_running=True) is False
    started = client.train_start("phantom_ct", {"steps": 3})
    assert started["status"] == "SUBMITTED"
    assert client.train_status(check_if_running=True) is True
    assert client.train_status()["id"] == started["id"]
    assert client.train_stop()["status"] == "STOPPED"
    assert client.train_status()["status"] == "STOPPED"


def test_the_client_uploads_an_image_for_a_session(
    client: MONAILabelClient, installed: tuple[Services, list[SourceSeries], Path], tmp_path: Path, serving: Serving
) -> None:
    uid = installed[1][0].series_uid
    image = tmp_path / "image.nii.gz"
    image.write_bytes(httpx.get(f"{serving.url}/datastore/image?image={uid}", trust_env=False).content)
    session = client.create_session(str(image))
    path, params = client.infer("phantom_ct", "", {}, session_id=session["session_id"])
    assert read_labels(Path(path)).array.shape == installed[1][0].geometry.shape
    assert params["model_version"] == 1
    path, _ = client.infer("phantom_ct", "", {"result_extension": ".nrrd"}, file=str(image))
    assert path.endswith(".nrrd")
    assert client.get_session(session["session_id"])["image"] == "image.nii.gz"
    client.remove_session(session["session_id"])
    with pytest.raises(MONAILabelClientException):
        client.get_session(session["session_id"])


def test_the_client_is_told_what_is_wrong(client: MONAILabelClient, tmp_path: Path) -> None:
    with pytest.raises(MONAILabelClientException) as caught:
        client.infer("phantom_ct", "/etc/passwd", {})
    assert "400" in caught.value.msg
    assert "SeriesInstanceUID" in caught.value.msg
    (tmp_path / "x.nii.gz").write_bytes(b"0")
    with pytest.raises(MONAILabelClientException):
        client.upload_image(str(tmp_path / "x.nii.gz"), "new")


def test_monai_labels_own_command_loads_the_app_and_serves_its_clients(
    module_orthanc: OrthancProcess, installed: tuple[Services, list[SourceSeries], Path], tmp_path: Path
) -> None:
    services, _, folder = installed
    port = free_port()
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP), "--host", "127.0.0.1"]
    command += ["--studies", module_orthanc.dicomweb_url, "--port", str(port)]
    with outside() as world:
        environment = {
            "TRANSUNET_VAR": str(folder / "var"),
            "TRANSUNET_REVIEW__HOLD_BACK": "false",  # the model is random
            "MONAI_LABEL_DICOMWEB_USERNAME": module_orthanc.username,
            "MONAI_LABEL_DICOMWEB_PASSWORD": module_orthanc.password,
            **world.environment(),
        }
        with launch(command, f"http://127.0.0.1:{port}", "/info/", folder, environment) as stock:
            client = MONAILabelClient(stock.url, tmpdir=str(tmp_path), client_id="ben")
            assert client.info()["models"]["phantom_ct"]["labels"]["liver"] == 2
            sample = client.next_sample("random", {})
            source = source_of(installed, sample["id"])
            path, params = client.infer("phantom_ct", sample["id"], {})
            assert read_labels(Path(path)).geometry.is_close(source.geometry)
            assert params["model_version"] == 1
            mask = liver_of(services.task(), source.geometry)
            write_labels(mask.array, mask.geometry, tmp_path / "mine.nii.gz")
            assert client.save_label(sample["id"], str(tmp_path / "mine.nii.gz"))["image"] == sample["id"]
            assert services.ledger.annotations.list(series_uid=sample["id"], status="accepted")[0].author == "ben"
            for image in ("/etc/passwd", str(tmp_path / "mine.nii.gz")):
                with pytest.raises(MONAILabelClientException) as caught:
                    client.infer("phantom_ct", image, {})
                assert "400" in caught.value.msg
            hidden = {"params": json.dumps({"image": "/etc/passwd"})}
            answer = httpx.post(f"{stock.url}/infer/phantom_ct?image={sample['id']}", data=hidden, trust_env=False)
            assert answer.status_code == 400
            new = upload(services, body(9), "P9")  # its worker follows the archive
            eventually(lambda: new.series_uid in client.datastore()["objects"], what="the new series")
        assert world.attempts == 0  # no dcmqi, nothing else
