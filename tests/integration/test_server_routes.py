"""The routes over real small rooms and a real Orthanc, asked as MONAI Label's clients and our pages ask."""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from asking import Web
from lib.cli.orthanc_process import OrthancProcess
from lib.core.geometry import Geometry
from lib.dicom.files import decode
from lib.dicom.seg import read_seg
from lib.dicom.series import SourceSeries
from lib.inference.quality import save_quality
from lib.inference.quality_fit import KnownCase, fit_quality
from lib.ledger.scores import Said
from lib.selection.strategies import STRATEGIES
from lib.server.asgi import build_app
from lib.server.context import Context, open_context
from lib.server.security import Security
from lib.server.volumefiles import read_labels, read_volume, write_labels
from lib.server.watch import ArchiveWatch, impatient
from lib.settings import Settings
from lib.workflows import query
from lib.workflows.estimates import origin_of
from lib.workflows.models import ChampionCache
from lib.workflows.services import Services
from loop import body, install, liver_of, register_random_model, settle, upload
from serving import eventually

pytestmark = pytest.mark.orthanc

UNKNOWN = "1.2.3.4.5"
LOOK_EVERY_S = 0.1
ANNA = {"Cookie": "transunet_user=anna"}
BEN = {"Cookie": "transunet_user=ben"}


@pytest.fixture
def services(own_orthanc: OrthancProcess, tmp_path: Path) -> Services:
    return install(own_orthanc, tmp_path / "var")


@pytest.fixture
def open_web() -> Iterator[Callable[[Settings], Web]]:
    """Makes a client of a server with these settings."""
    made: list[tuple[Web, Context]] = []

    def make(settings: Settings) -> Web:
        app = build_app(settings)
        context = open_context(settings)
        app.state.context = replace(context, watch=ArchiveWatch(impatient(settings.archive), LOOK_EVERY_S))
        app.state.context.watch.ask()
        app.state.context.watch.start()
        app.state.context.warm.set()
        made.append((Web(Security(app, settings.server)), app.state.context))
        return made[-1][0]

    yield make
    for web, context in made:
        web.run(context.close())
        web.close()


@pytest.fixture
def web(services: Services, open_web: Callable[[Settings], Web]) -> Web:
    return open_web(services.settings)


@pytest.fixture
def source(services: Services) -> SourceSeries:
    """A series that is ready; no model serves."""
    found = upload(services, body(), "P1")
    settle(services)
    query.refresh_queues(services, services.task())
    return found


@pytest.fixture
def served(services: Services, tmp_path: Path) -> int:
    """A model that serves: its version."""
    return register_random_model(services, services.task(), tmp_path / "model")


def label_upload(path: Path) -> dict[str, tuple[str, bytes]]:
    return {"label": (path.name, path.read_bytes())}


def test_info_says_what_clients_ask_first(web: Web, source: SourceSeries, served: int) -> None:
    info = web.get("/info/").json()
    assert info["models"]["phantom_ct"]["labels"]["liver"] == 2
    assert info["models"]["phantom_ct"]["type"] == "segmentation"
    assert "config" not in info  # 3D Slicer takes it for an old server
    assert {name: known["description"] for name, known in info["strategies"].items()} == {
        name: strategy.describe for name, strategy in STRATEGIES.items()
    }
    assert len(STRATEGIES) == 13
    assert info["datastore"] == {"total": 1, "completed": 0, "label_tags": {"final": 0, "original": 0}}
    assert info["champions"]["phantom_ct"]["version"] == served
    assert info["archive"]["available"] is True
    assert web.get("/info").json()["name"] == info["name"]


def test_info_and_the_inferred_seg_tell_the_state_of_the_estimates(
    web: Web, source: SourceSeries, served: int, services: Services
) -> None:
    url = f"/infer/phantom_ct?image={source.series_uid}"
    assert web.get("/info/").json()["champions"]["phantom_ct"]["estimated_dice"] is None
    assert web.post(f"{url}&output=json").json()["estimated_dice"] == {}
    task = services.task()
    model = services.registry.get(task.name, served)
    made = ChampionCache(services).predictor(task.name)[0].predict(source.volume)
    dice, spots = dict.fromkeys(task.schema.names, 0.8), np.linspace(-1e-3, 1e-3, 13, dtype=np.float32)
    around = [
        {name: replace(one, mean_probability=one.mean_probability + float(spot)) for name, one in made.evidence.items()}
        for spot in spots
    ]
    cases = [KnownCase(f"p{n}", around[n], dice, made.embedding + spot) for n, spot in enumerate(spots)]
    origin = origin_of(model.folder, services.settings.uncertainty)
    save_quality(model.folder, fit_quality(cases, task.schema.names, {}, origin))
    told = web.get("/info/").json()["champions"]["phantom_ct"]["estimated_dice"]
    assert told == {"patients": 13, "level": 0.9}
    by_label = web.post(f"{url}&output=json").json()["estimated_dice"]
    assert set(by_label) == set(task.schema.names)
    drawn = [name for name, voxels in made.mask.voxels().items() if voxels]
    assert [one["value"] for one in by_label.values() if one["value"]] == pytest.approx([0.8] * len(drawn), abs=0.01)
    seg = decode(web.post(f"{url}&output=dicom_seg").content)
    assert f"Prediction phantom_ct v{served}, lowest Dice 0.80 (" in seg.SeriesDescription


@pytest.mark.parametrize("image", ["/etc/passwd", "..%2F..%2Fetc%2Fpasswd", "file:///etc/passwd", "C:%5Cx", ""])
def test_a_path_is_no_image_anywhere(image: str, web: Web, served: int) -> None:
    assert web.post(f"/infer/phantom_ct?image={image}").status_code == 400
    hidden = {"params": json.dumps({"image": "/etc/passwd", "result_extension": "/../x"})}
    assert web.post(f"/infer/phantom_ct?image={image}", data=hidden).status_code == 400
    assert web.get(f"/datastore/image?image={image}").status_code == 400
    assert web.get(f"/datastore/label?label={image}&tag=final").status_code == 400
    assert web.put(f"/datastore/label?image={image}", files={"label": ("x.nii.gz", b"0")}).status_code == 400


def test_without_a_model_inference_says_how_to_train_one(web: Web, source: SourceSeries) -> None:
    answer = web.post(f"/infer/phantom_ct?image={source.series_uid}")
    assert answer.status_code == 409
    assert "transunet-label retrain --task phantom_ct" in answer.json()["detail"]


def test_an_unknown_series_and_an_unknown_model_are_not_found(web: Web, served: int) -> None:
    assert web.post(f"/infer/phantom_ct?image={UNKNOWN}").status_code == 404
    assert web.post(f"/infer/other?image={UNKNOWN}").status_code == 404


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_inference_answers_a_file_on_the_grid_of_the_series(
    extension: str, web: Web, source: SourceSeries, served: int, tmp_path: Path
) -> None:
    params = {"params": json.dumps({"result_extension": extension})}
    answer = web.post(f"/infer/phantom_ct?image={source.series_uid}&output=image", data=params)
    assert answer.status_code == 200
    assert extension in answer.headers["content-disposition"]
    path = tmp_path / f"x{extension}"
    path.write_bytes(answer.content)
    read = read_labels(path)
    assert read.geometry.is_close(source.geometry)
    facts = web.post(f"/infer/phantom_ct?image={source.series_uid}&output=json").json()
    assert facts["model_version"] == served
    assert {name: int((read.array == value).sum()) for name, value in facts["label_names"].items()} == {
        name: voxels for name, voxels in facts["voxels"].items() if voxels
    }
    assert set(facts["latencies"]) >= {"pre", "infer", "invert", "post", "write", "total"}


def test_inference_on_an_upload_equals_inference_on_the_series(
    web: Web, source: SourceSeries, served: int, tmp_path: Path
) -> None:
    image = web.get(f"/datastore/image?image={source.series_uid}")
    by_series = web.post(f"/infer/phantom_ct?image={source.series_uid}&output=json").json()
    by_file = web.post("/infer/phantom_ct?output=json", files={"file": ("x.nii.gz", image.content)}).json()
    assert by_file["voxels"] == by_series["voxels"]


def test_inference_answers_a_dicom_seg_when_asked(
    web: Web, source: SourceSeries, served: int, services: Services
) -> None:
    answer = web.post(f"/infer/phantom_ct?image={source.series_uid}&output=dicom_seg")
    voxels = web.post(f"/infer/phantom_ct?image={source.series_uid}&output=json").json()["voxels"]
    assert answer.headers["content-type"] == "application/dicom"
    assert read_seg(decode(answer.content), source, services.task().schema).voxels() == voxels
    assert services.ledger.annotations.list() == []  # nothing was recorded


def test_scribbles_and_broken_params_are_refused(web: Web, source: SourceSeries, served: int) -> None:
    url = f"/infer/phantom_ct?image={source.series_uid}"
    assert web.post(url, files={"label": ("x.nii.gz", b"0")}).status_code == 400
    assert web.post(url, data={"params": "[1]"}).status_code == 400
    assert web.post(url, data={"params": '{"result_extension": ".exe"}'}).status_code == 400


def test_a_session_holds_an_image_for_inference(web: Web, source: SourceSeries, served: int) -> None:
    image = web.get(f"/datastore/image?image={source.series_uid}").content
    made = web.put("/session/", files={"files": ("brain.nii.gz", image)}).json()
    identifier = made["session_id"]
    answer = web.post(f"/infer/phantom_ct?image=&session_id={identifier}&output=json")
    assert answer.json()["model_version"] == served
    assert web.get(f"/session/{identifier}").json()["image"] == "brain.nii.gz"
    assert web.get(f"/session/{identifier}?image=true").content == image
    web.delete(f"/session/{identifier}")
    assert web.get(f"/session/{identifier}").status_code == 404
    assert web.put("/session/", files={"files": ("x.nii.gz", b"no image")}).status_code == 422


def test_two_annotators_get_two_cases_and_each_keeps_his(web: Web, services: Services) -> None:
    for number in range(2):
        upload(services, body(number), f"P{number}")
    settle(services)
    query.refresh_queues(services, services.task())
    first = web.post("/activelearning/random", headers=ANNA).json()
    second = web.post("/activelearning/random", json={"client_id": "ben"}).json()
    assert first["id"] != second["id"]
    assert first["annotator"] == "anna"
    assert second["annotator"] == "ben"
    assert web.post("/activelearning/random", headers=ANNA).json()["id"] == first["id"]
    none = web.post("/activelearning/random", headers={"Cookie": "transunet_user=cleo"}).json()
    assert list(none) == ["why"]
    assert none["why"].startswith("no case is free: of 2 ready series 0 are labelled, 2 in somebody's hands;")
    assert first["path"] == ""
    assert first["name"].endswith(".nii.gz")
    assert first["StudyInstanceUID"] in first["viewer"]


def test_an_unknown_strategy_lists_the_known_ones(web: Web, source: SourceSeries) -> None:
    answer = web.post("/activelearning/magic")
    assert answer.status_code == 400
    assert all(name in answer.json()["detail"] for name in STRATEGIES)


def test_a_label_of_slicer_becomes_an_accepted_annotation(
    web: Web, source: SourceSeries, services: Services, tmp_path: Path
) -> None:
    wanted = liver_of(services.task(), source.geometry)
    places = np.select([wanted.array == 3, wanted.array == 2], [1, 2], 0).astype(np.uint8)  # spleen, liver
    write_labels(places, source.geometry, tmp_path / "label.nii.gz")
    info = {"label_info": [{"name": "spleen", "idx": 1}, {"name": "liver", "idx": 2}], "client_id": "anna"}
    url = f"/datastore/label?image={source.series_uid}"
    answer = web.put(url, files=label_upload(tmp_path / "label.nii.gz"), data={"params": json.dumps(info)})
    assert answer.status_code == 200, answer.text
    saved = answer.json()
    assert (saved["image"], saved["author"], saved["status"]) == (source.series_uid, "anna", "accepted")
    assert saved["voxels"] == wanted.voxels()
    settle(services)
    back = web.get(f"/datastore/label?label={source.series_uid}&tag=final")
    (tmp_path / "back.nii.gz").write_bytes(back.content)
    read = read_labels(tmp_path / "back.nii.gz")
    assert np.array_equal(read.array, wanted.array)
    assert read.geometry.is_close(source.geometry)
    assert web.get("/datastore/").json()["completed"] == 1
    objects = web.get("/datastore/?output=all").json()["objects"]
    assert objects[source.series_uid]["labels"]["final"]["info"]["author"] == "anna"
    assert [pair["image"] for pair in web.get("/datastore/?output=train").json()] == [source.series_uid]


@pytest.mark.parametrize("name", ["Dr. O'Neill", "Müller, Anna", "D\u2019Angelo (Radiologie)", "李小龍"])
def test_an_ordinary_name_passes_from_the_cookie_into_the_stored_segmentation(
    name: str, web: Web, source: SourceSeries, services: Services, tmp_path: Path
) -> None:
    cookie = {"Cookie": f"transunet_user={quote(name)}"}
    assert web.get("/worklist.json", headers=cookie).json()["user"] == name
    assert web.post("/activelearning/random", headers=cookie).json()["annotator"] == name
    mask = liver_of(services.task(), source.geometry)
    write_labels(mask.array, mask.geometry, tmp_path / "label.nii.gz")
    url = f"/datastore/label?image={source.series_uid}"
    saved = web.put(url, files=label_upload(tmp_path / "label.nii.gz"), headers=cookie).json()
    assert saved["author"] == name
    settle(services)
    [seg] = services.archive.fetch(services.ledger.annotations.get(saved["annotation"]).seg_series_uid)
    assert str(seg.ContentCreatorName) == name
    assert name in web.get("/worklist.json", headers=cookie).text


def test_a_log_in_by_any_name_works(services: Services, open_web: Callable[[Settings], Web]) -> None:
    web = open_web(replace(services.settings, server=replace(services.settings.server, password="horse")))
    login = base64.b64encode("Müller, Anna:horse".encode()).decode()
    assert web.get("/worklist.json", headers={"Authorization": f"Basic {login}"}).json()["user"] == "Müller, Anna"
    token = web.post("/auth/token", data={"username": "Dr. O'Neill", "password": "horse"}).json()["access_token"]
    assert web.get("/worklist.json", headers={"Authorization": f"Bearer {token}"}).json()["user"] == "Dr. O'Neill"


def test_a_label_without_a_name_belongs_to_the_holder_of_the_lease(
    web: Web, source: SourceSeries, services: Services, tmp_path: Path
) -> None:
    web.post("/activelearning/random", headers=BEN)
    mask = liver_of(services.task(), source.geometry)
    write_labels(mask.array, mask.geometry, tmp_path / "label.nrrd")
    saved = web.put(f"/datastore/label?image={source.series_uid}", files=label_upload(tmp_path / "label.nrrd")).json()
    assert saved["author"] == "ben"


def test_a_label_of_another_grid_is_refused_with_both_shapes(web: Web, source: SourceSeries, tmp_path: Path) -> None:
    other = Geometry.from_spacing((5, 32, 48), (3.0, 2.8, 2.8))
    write_labels(np.ones(other.shape, np.uint8), other, tmp_path / "label.nii.gz")
    answer = web.put(f"/datastore/label?image={source.series_uid}", files=label_upload(tmp_path / "label.nii.gz"))
    assert answer.status_code == 422
    assert "6x32x48" in answer.json()["detail"]
    assert "5x32x48" in answer.json()["detail"]


def test_with_several_tasks_a_label_finds_its_own_by_its_names(
    own_orthanc: OrthancProcess, tmp_path: Path, open_web: Callable[[Settings], Web]
) -> None:
    services = install(own_orthanc, tmp_path / "var2", tasks="phantom_ct,abdomen_ct")
    web = open_web(services.settings)
    source = upload(services, body(), "P1")
    settle(services)
    write_labels(np.ones(source.geometry.shape, np.uint8), source.geometry, tmp_path / "label.nii.gz")
    url = f"/datastore/label?image={source.series_uid}"

    def save(**params: object) -> httpx.Response:
        return web.put(url, files=label_upload(tmp_path / "label.nii.gz"), data={"params": json.dumps(params)})

    assert save(label_info=[{"name": "lesion", "idx": 1}]).json()["task"] == "phantom_ct"
    assert save(label_info=[{"name": "pancreas", "idx": 1}]).json()["task"] == "abdomen_ct"
    unclear = save(label_info=[{"name": "liver", "idx": 1}])
    assert unclear.status_code == 400
    assert "phantom_ct" in unclear.json()["detail"]
    assert save(label_info=[{"name": "liver", "idx": 1}], model="abdomen_ct").json()["task"] == "abdomen_ct"


def test_a_label_with_foreign_names_or_for_a_foreign_series_is_refused(
    web: Web, source: SourceSeries, services: Services, tmp_path: Path
) -> None:
    write_labels(np.ones(source.geometry.shape, np.uint8), source.geometry, tmp_path / "label.nii.gz")
    info = {"params": json.dumps({"label_info": [{"name": "pancreas", "idx": 1}]})}
    url = f"/datastore/label?image={source.series_uid}"
    answer = web.put(url, files=label_upload(tmp_path / "label.nii.gz"), data=info)
    assert answer.status_code == 422
    assert "pancreas" in answer.json()["detail"]
    unknown = web.put(f"/datastore/label?image={UNKNOWN}", files=label_upload(tmp_path / "label.nii.gz"))
    assert unknown.status_code == 404
    assert web.put(f"{url}&tag=original", files=label_upload(tmp_path / "label.nii.gz")).status_code == 400
    assert services.ledger.annotations.list() == []


@pytest.mark.parametrize(
    ("name", "status"), [("x.nrrd", 422), ("x.seg.nrrd", 422), ("x.nhdr", 400), ("x.mha", 400), ("x.mhd", 400)]
)
def test_an_upload_never_brings_a_file_of_the_server_along(
    name: str, status: int, web: Web, source: SourceSeries, services: Services, served: int, tmp_path: Path
) -> None:
    slices, rows, columns = source.geometry.shape
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x02" * (slices * rows * columns))
    header = (
        f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: {columns} {rows} {slices}\nencoding: raw\ndata file: {secret}\n"
    )
    if name.startswith("x.m"):
        header = (
            f"NDims = 3\nDimSize = {columns} {rows} {slices}\nElementType = MET_UCHAR\nElementDataFile = {secret}\n"
        )
    upload = (name, header.encode())
    answers = [
        web.put(f"/datastore/label?image={source.series_uid}", files={"label": upload}),
        web.post("/infer/phantom_ct?output=json", files={"file": upload}),
        web.put("/session/", files={"files": upload}),
    ]
    assert [answer.status_code for answer in answers] == [status] * 3
    assert services.ledger.annotations.list() == []


def test_the_image_comes_as_nifti_with_values_and_grid_of_the_series(
    web: Web, source: SourceSeries, tmp_path: Path
) -> None:
    answer = web.get(f"/datastore/image?image={source.series_uid}")
    (tmp_path / "x.nii.gz").write_bytes(answer.content)
    volume = read_volume(tmp_path / "x.nii.gz", "CT")
    assert volume.geometry.is_close(source.geometry)
    assert np.array_equal(volume.array, source.volume.array)
    assert web.ask("HEAD", f"/datastore/image?image={source.series_uid}").status_code == 200
    assert web.ask("HEAD", f"/datastore/image?image={UNKNOWN}").status_code == 404


def test_images_labels_and_weights_are_not_removed_over_http(web: Web, source: SourceSeries, served: int) -> None:
    uid = source.series_uid
    assert web.delete(f"/datastore/?id={uid}").status_code == 405
    assert web.delete(f"/datastore/label?id={uid}&tag=final").status_code == 405
    assert web.put("/datastore/image", files={"file": ("x.nii.gz", b"0")}).status_code == 405
    assert web.put("/model/phantom_ct", files={"file": ("x.pt", b"0")}).status_code == 405
    assert web.delete("/model/phantom_ct").status_code == 405
    assert web.delete(f"/dicom-web/series/{uid}").status_code == 405


@pytest.mark.parametrize("path", ["/logs", "/logs/", "/proxy/dicom/studies", "/reload", "/ohif/x"])
def test_open_routes_of_the_stock_server_do_not_exist(path: str, web: Web) -> None:
    assert web.get(path, headers={"Accept": "application/json"}).status_code in (404, 503)
    assert web.post(path).status_code == 405


def test_training_is_a_job_that_can_be_watched_and_cancelled(web: Web, services: Services) -> None:
    assert web.get("/train/").status_code == 404
    assert web.get("/train/?check_if_running=true").status_code == 404
    started = web.post("/train/phantom_ct", json={"steps": 5, "client_id": "anna", "gpus": "all"}).json()
    assert started["status"] == "SUBMITTED"
    assert started["request"]["params"] == {"steps": 5}
    assert web.post("/train/phantom_ct").json()["id"] == started["id"]  # one at a time
    assert web.get("/train/?check_if_running=true").json()["id"] == started["id"]
    stopped = web.delete("/train/").json()
    assert (stopped["id"], stopped["status"]) == (started["id"], "STOPPED")
    assert stopped["details"]
    assert web.get("/train/").json()["status"] == "STOPPED"
    assert web.get("/train/?check_if_running=true").status_code == 404
    assert [job["id"] for job in web.get("/train/?all=true").json()] == [started["id"]]
    assert (
        web.post("/train/", json={"phantom_ct": {"steps": 3}}).json()["phantom_ct"]["result"]["status"] == "SUBMITTED"
    )
    assert web.post("/train/other").status_code == 404


def test_batch_inference_asks_for_the_missing_drafts(
    web: Web, source: SourceSeries, served: int, services: Services
) -> None:
    started = web.post("/batch/infer/phantom_ct").json()
    assert (started["status"], started["details"]) == ("SUBMITTED", ["1 drafts asked for, 1 wait or are being made"])
    assert web.get("/batch/infer?check_if_running=true").json()["status"] == "SUBMITTED"
    settle(services)
    assert web.get("/batch/infer").json()["status"] == "DONE"
    assert web.get("/batch/infer?check_if_running=true").status_code == 404
    assert web.ask("HEAD", f"/datastore/label?image={source.series_uid}&tag=original").status_code == 200


def test_scoring_says_how_far_it_is_and_ranks_the_queue(
    web: Web, source: SourceSeries, served: int, services: Services
) -> None:
    assert web.post("/scoring/queue").json()["status"] == "PENDING"  # there is no worker here
    found = web.get("/scoring/").json()
    assert (found["version"], found["scored"], found["of"]) == (served, 0, 1)
    assert found["details"][0] == f"version {served} has scored 0 of 1 series; waiting"
    assert source.series_uid in found["details"][1]
    assert web.get("/scoring/?check_if_running=true").json()["status"] == "PENDING"
    services.ledger.scorings.add(source.series_uid, "phantom_ct", served, Said({"liver": 0.5}))
    assert web.get("/scoring/").json()["details"][0] == f"version {served} has scored 1 of 1 series; done"
    assert web.get("/scoring/?check_if_running=true").status_code == 404
    assert web.post("/scoring/dice").status_code == 404


def test_the_served_weights_can_be_fetched_and_checked(web: Web, served: int) -> None:
    info = web.get("/model/info/phantom_ct").json()
    weights = web.get("/model/phantom_ct")
    assert info["checksum"] == f"SHA256:{hashlib.sha256(weights.content).hexdigest()}"
    assert info["version"] == served
    assert info["manifest"]["task"] == "phantom_ct"


def test_the_panel_takes_a_case_gives_it_back_and_asks_for_a_draft(
    web: Web, source: SourceSeries, served: int, services: Services
) -> None:
    uid = source.series_uid
    found = web.get(f"/cases?study={source.study_uid}", headers=ANNA).json()
    assert (found["user"], found["case"]["series"], found["case"]["state"]) == ("anna", uid, "todo")
    assert web.post(f"/cases/{uid}/hold", headers=ANNA).json()["case"]["holder"] == "anna"
    refused = web.post(f"/cases/{uid}/hold", headers=BEN)
    assert refused.status_code == 409
    assert "anna" in refused.json()["detail"]
    drafted = web.post(f"/cases/{uid}/draft", headers=ANNA).json()["case"]
    assert drafted["state"] == "drafted"
    assert drafted["draft"]["stored"] is True
    assert drafted["draft"]["version"] == served
    assert drafted["voxel_ml"] == pytest.approx(3.0 * 2.8 * 2.8 / 1000)
    assert services.archive.fetch(drafted["draft"]["seg_series"])
    assert web.post(f"/cases/{uid}/release", headers=ANNA).json()["case"]["holder"] is None
    assert web.get(f"/cases?study={UNKNOWN}").status_code == 404
    assert web.get("/cases").status_code == 400


def test_with_several_tasks_each_case_is_opened_and_taken_for_its_own(
    own_orthanc: OrthancProcess, tmp_path: Path, open_web: Callable[[Settings], Web]
) -> None:
    services = install(own_orthanc, tmp_path / "var2", tasks="hippocampus_mr,phantom_ct")
    web = open_web(services.settings)
    ct, mr = upload(services, body(0), "P1"), upload(services, replace(body(1), modality="MR"), "P2")
    settle(services)
    for task in services.tasks.values():
        query.refresh_queues(services, task)
    for task, source in (("hippocampus_mr", mr), ("phantom_ct", ct)):
        [row] = web.get(f"/worklist.json?task={task}").json()["cases"]
        offered = web.post("/activelearning/random", json={"task": task}, headers=ANNA).json()
        assert row["series"] == offered["id"] == source.series_uid
        assert row["viewer"] == offered["viewer"]
        assert row["viewer"].endswith(f"&task={task}")
        held = web.post(f"/cases/{source.series_uid}/hold?task={task}", headers=ANNA).json()
        assert (held["task"]["name"], held["case"]["holder"]) == (task, "anna")
        for by in (f"series={source.series_uid}", f"study={source.study_uid}"):  # opened from the viewer's own list
            assert web.get(f"/cases?{by}").json()["task"]["name"] == task
    assert web.get(f"/cases?series={ct.series_uid}&task=hippocampus_mr").status_code == 404
    assert web.get(f"/cases?series={ct.series_uid}&task=other").status_code == 404


def test_the_worklist_shows_state_place_and_the_way_into_the_viewer(web: Web, source: SourceSeries) -> None:
    answer = web.get("/worklist.json", headers=ANNA).json()
    [row] = [row for row in answer["cases"] if row["series"] == source.series_uid]
    assert (row["state"], row["rank"]) == ("todo", 1)
    assert row["why"]
    assert row["viewer"] == (
        f"/segmentation?StudyInstanceUIDs={source.study_uid}&initialSeriesInstanceUID={source.series_uid}&task=phantom_ct"
    )
    assert answer["overview"]["counts"]["todo"] == 1
    assert answer["champion"] is None
    assert answer["user"] == "anna"
    assert [label["name"] for label in answer["task"]["labels"]][:2] == ["spine", "liver"]
    assert web.get("/worklist.json?state=labelled").json()["cases"] == []
    cut = web.get("/worklist.json?limit=0").json()
    assert (cut["total"], cut["cases"]) == (1, [])


def test_a_refused_series_is_listed_with_its_reason_and_never_offered(web: Web, services: Services) -> None:
    source = upload(services, body(), "P1")
    settle(services)
    services.ledger.series.refuse(source.series_uid, "slice gaps must agree")
    query.refresh_queues(services, services.task())
    [row] = web.get("/worklist.json").json()["cases"]
    assert (row["state"], row["reason"], row["rank"]) == ("refused", "slice gaps must agree", None)
    none = {"why": "no case is free: the archive holds no series that is ready to be labelled"}
    assert web.post("/activelearning/random").json() == none
    answer = web.get(f"/datastore/image?image={source.series_uid}")
    assert answer.status_code == 422
    assert "slice gaps must agree" in answer.json()["detail"]


def test_pages_and_scripts_are_there(web: Web) -> None:
    assert "Worklist" in web.get("/worklist").text
    assert "transunet" in web.get("/transunet.js").text
    assert "transunet-panel" in web.get("/app-config.js").text
    assert web.get("/worklist.css").status_code == 200
    assert web.get("/worklist.js").status_code == 200
    assert web.get("/health").json() == {"status": "ok"}


def test_the_archive_is_searched_and_fed_through_the_proxy(web: Web, source: SourceSeries, services: Services) -> None:
    studies = web.get("/dicom-web/studies", headers={"Accept": "application/dicom+json"}).json()
    assert [study["0020000D"]["Value"][0] for study in studies] == [source.study_uid]
    text = json.dumps(studies)
    assert services.settings.archive.url.split("/dicom-web")[0] not in text
    frame = web.get(
        f"/dicom-web/studies/{source.study_uid}/series/{source.series_uid}/instances/"
        f"{source.headers[0].SOPInstanceUID}/frames/1",
        headers={"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"},
    )
    assert frame.status_code == 200
    assert len(frame.content) > 32 * 48 * 2


def test_a_log_in_names_the_author(
    services: Services, source: SourceSeries, open_web: Callable[[Settings], Web]
) -> None:
    guarded = replace(services.settings, server=replace(services.settings.server, password="horse"))
    web = open_web(guarded)
    assert web.get("/info/").status_code == 401
    assert web.get("/auth/").json()["enabled"] is True
    assert web.post("/auth/token", data={"username": "eve", "password": "wrong"}).status_code == 401
    token = web.post("/auth/token", data={"username": "eve", "password": "horse"}).json()["access_token"]
    bearer = {"Authorization": f"bearer {token}"}
    assert web.get("/auth/token/valid", headers=bearer).status_code == 200
    assert web.get("/auth/token/valid").status_code == 401
    assert web.post("/activelearning/random", headers=bearer, json={"client_id": "x"}).json()["annotator"] == "eve"


def test_an_archive_that_is_away_stops_neither_info_nor_worklist(
    web: Web, source: SourceSeries, served: int, own_orthanc: OrthancProcess
) -> None:
    own_orthanc.kill()
    eventually(lambda: web.get("/info/").json()["archive"]["available"] is False, what="the archive's leaving")
    assert web.get("/worklist.json").json()["cases"][0]["series"] == source.series_uid
    answer = web.post(f"/infer/phantom_ct?image={source.series_uid}")
    assert answer.status_code == 503
    assert "Traceback" not in answer.text
    assert web.get("/dicom-web/studies").status_code == 503


def test_an_archive_that_accepts_and_never_answers_delays_nothing_that_needs_the_ledger_alone(
    services: Services, source: SourceSeries, open_web: Callable[[Settings], Web]
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web"
        hung = replace(services.settings, archive=replace(services.settings.archive, url=url, timeout_s=600.0))
        app = build_app(hung)
        web = Web(Security(app, hung.server))
        app.state.context = open_context(hung)
        app.state.context.watch.start()
        try:
            asked = [web.send("GET", path) for path in ("/worklist.json", "/info/") for _ in range(10)]
            case = web.send("POST", "/activelearning/random").result(60)
            assert case.json()["id"] == source.series_uid
            answers = [answer.result(60).json() for answer in asked]
            assert all(answer["archive"]["available"] is False for answer in answers)
        finally:
            web.run(app.state.context.close())
            web.close()


def test_an_inference_that_takes_long_blocks_nobody(
    web: Web, source: SourceSeries, served: int, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib.inference.predictor import Predictor

    going, release = threading.Event(), threading.Event()
    original: Callable[..., object] = Predictor.predict

    def slow(self: Predictor, *args: object, **kwargs: object) -> object:
        going.set()
        release.wait(30)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Predictor, "predict", slow)
    results: list[int] = []
    url = f"/infer/phantom_ct?image={source.series_uid}&output=json"
    threads = [threading.Thread(target=lambda: results.append(web.post(url).status_code)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert going.wait(20)
    assert web.get("/worklist.json").status_code == 200
    assert web.get("/info/").status_code == 200
    release.set()
    for thread in threads:
        thread.join(60)
    assert results == [200] * 4
