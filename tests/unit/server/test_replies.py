import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from email.message import Message

import numpy as np
import pytest

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import LabelEvidence, Mask, Prediction
from lib.inference.quality import NOT_PREDICTED, UNFAMILIAR, EstimatedDice
from lib.ledger.rows import JobRow
from lib.server import replies

CODE = Code("10200004", "Liver")
SCHEMA = LabelSchema((Label("liver", 2, (1, 2, 3), CODE), Label("spleen", 5, (1, 2, 3), CODE)))
GRID = Geometry.from_spacing((2, 3, 4), (1.0, 1.0, 1.0))


def prediction() -> Prediction:
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array[1, 2, 1:4] = 5
    return Prediction(
        mask=Mask(array, GRID, SCHEMA),
        entropy=np.zeros(GRID.shape, dtype=np.float16),
        scores={"liver": float("nan"), "spleen": 0.5},
        embedding=np.zeros(2, dtype=np.float32),
        latencies_s={"preprocess": 0.25, "network": 1.0, "restore": 0.5, "scores": 0.125},
    )


def test_only_labels_that_occur_are_named() -> None:
    params = replies.infer_params(prediction(), 3, 0.125)
    assert params["label_names"] == {"spleen": 5}
    assert params["voxels"] == {"liver": 0, "spleen": 3}
    assert params["model_version"] == 3


def test_latencies_have_the_names_that_viewers_show_and_their_sum() -> None:
    latencies = replies.infer_params(prediction(), 3, 0.125)["latencies"]
    assert latencies == {"pre": 0.25, "infer": 1.0, "invert": 0.5, "post": 0.125, "write": 0.125, "total": 2.0}


def test_the_centre_of_a_label_is_given_as_column_row_slice() -> None:
    assert replies.infer_params(prediction(), 3, 0.0)["centroids"] == {"spleen": ["2", "2", "1"]}


def test_a_score_that_nobody_knows_is_null() -> None:
    params = replies.infer_params(prediction(), 3, 0.0)
    assert json.loads(json.dumps(params, allow_nan=False))["scores"] == {"liver": None, "spleen": 0.5}


def test_each_quantity_and_the_evidence_of_each_label_are_told() -> None:
    found = LabelEvidence(volume_ml=0.003, largest_probability=0.9, mean_probability=0.75, components=1)
    quantities = {"entropy": {"spleen": 0.5}, "bald": {"spleen": 0.25}}
    made = replace(prediction(), quantities=quantities, evidence={"spleen": found})
    params = json.loads(json.dumps(replies.infer_params(made, 3, 0.0), allow_nan=False))
    assert params["quantities"] == quantities
    evidence = params["evidence"]["spleen"]
    assert (evidence["volume_ml"], evidence["mean_probability"], evidence["components"]) == (0.003, 0.75, 1)
    assert evidence["samples_dice"] is None


def test_an_estimate_has_numbers_only_where_they_can_be_trusted() -> None:
    nan = float("nan")
    estimates = {
        "liver": EstimatedDice(nan, nan, nan, True, NOT_PREDICTED),
        "spleen": EstimatedDice(0.9126, 0.85, 0.95, True),
        "aorta": EstimatedDice(0.7, 0.1, 0.9, False, UNFAMILIAR),
    }
    params = json.loads(json.dumps(replies.infer_params(prediction(), 3, 0.0, estimates), allow_nan=False))
    unknown = {"value": None, "low": None, "high": None}
    assert params["estimated_dice"] == {
        "liver": {**unknown, "is_familiar": True, "reason": NOT_PREDICTED},
        "spleen": {"value": 0.913, "low": 0.85, "high": 0.95, "is_familiar": True, "reason": ""},
        "aorta": {**unknown, "is_familiar": False, "reason": UNFAMILIAR},
    }
    assert replies.infer_params(prediction(), 3, 0.0)["estimated_dice"] == {}


@pytest.mark.filterwarnings("ignore:'cgi' is deprecated:DeprecationWarning")
def test_monai_labels_client_reads_the_form() -> None:
    from monailabel.client.client import MONAILabelUtils

    content = bytes(range(256)) * 3 + b"\r\n--x\r\n"
    response = replies.multipart({"a": 1}, content, "x.nii.gz")
    headers = Message()
    headers["Content-Type"] = response.headers["content-type"]
    headers["Content-Length"] = response.headers["content-length"]
    form, files = MONAILabelUtils.parse_multipart(io.BytesIO(bytes(response.body)), headers)
    assert json.loads(form["params"]) == {"a": 1}
    assert files == {"x.nii.gz": content}


def job(**changes: object) -> JobRow:
    moment = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
    values: dict[str, object] = {
        "id": 4,
        "kind": "retrain",
        "task": "t",
        "payload": {"params": {}},
        "key": "retrain:t",
        "state": "running",
        "attempts": 1,
        "max_attempts": 3,
        "worker": "w",
        "progress": 0.5,
        "message": "step 5 of 10",
        "error": "",
        "created_at": moment,
        "not_before": moment,
        "started_at": moment,
        "heartbeat_at": moment,
        "finished_at": None,
        "result": None,
    }
    return JobRow(**{**values, **changes})  # type: ignore[arg-type]


def test_a_job_looks_like_a_task_of_monai_label() -> None:
    shown = replies.job(job())
    assert (shown["id"], shown["status"], shown["end_ts"]) == ("4", "RUNNING", None)
    assert shown["request"]["model"] == "t"
    assert shown["details"] == ["step 5 of 10"]


def test_a_job_without_words_still_has_a_detail_to_show() -> None:
    assert replies.job(job(state="queued", message="", error=""))["details"] == ["queued"]
    assert replies.job(job(state="cancelled"))["status"] == "STOPPED"
    assert replies.job(job(state="failed", error="no memory"))["details"][-1] == "no memory"
