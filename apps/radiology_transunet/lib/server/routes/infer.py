"""Inference on a series, an upload or a session; nothing is recorded."""

import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, NamedTuple

from fastapi import APIRouter, File, Form, Response, UploadFile
from fastapi.responses import JSONResponse

from lib.core.errors import InvalidInput, NotFound
from lib.core.estimated import EstimatedDice
from lib.core.values import Mask, Prediction
from lib.dicom.seg import MAX_TEXT, SegOrigin
from lib.dicom.writer import new_uid
from lib.server import replies
from lib.server.context import Context, Ctx
from lib.server.images import kept_upload, parameters, scratch_folder, series_uid
from lib.server.volumefiles import WRITABLE, read_volume, write_labels
from lib.taskfile import Task
from lib.workflows.estimates import described
from lib.workflows.presegment import MODEL_AUTHOR, predict_series, seg_file

router = APIRouter(prefix="/infer")

DEFAULT_EXTENSION = ".nii.gz"


class Answered(NamedTuple):
    """A prediction, the version that made it, and the estimated Dice of its labels."""

    prediction: Prediction
    model_version: int
    estimates: Mapping[str, EstimatedDice]


class Output(StrEnum):
    """What the reply holds."""

    IMAGE = "image"
    JSON = "json"
    ALL = "all"
    DICOM_SEG = "dicom_seg"


@router.post("/{model}")
async def infer(
    context: Ctx,
    model: str,
    image: str = "",
    session_id: str = "",
    output: Output = Output.ALL,
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Segment an image with the task's champion."""
    given = parameters(params)
    if label is not None:
        raise InvalidInput("this model takes no label or scribbles as input; send the image alone")
    task = context.services.task(model)
    if output is Output.DICOM_SEG:
        return await context.heavy.run(_dicom_seg, context, task, series_uid(image))
    made = await context.heavy.run(_predict, context, task, image, session_id, file)
    extension = str(given.get("result_extension") or DEFAULT_EXTENSION)
    return await context.heavy.run(_reply, context, task, made, output, extension)


def _predict(context: Context, task: Task, image: str, session_id: str, file: UploadFile | None) -> Answered:
    """What the champion says of whatever names the image: the file, the session, the series."""
    if file is not None:
        with kept_upload(file, context.uploads) as path:
            volume = read_volume(path, task.modalities[0])
    elif session_id:
        volume = read_volume(context.sessions.get(session_id).image, task.modalities[0])
    elif image:
        found = predict_series(context.services, context.champions, task, series_uid(image))
        return Answered(found.prediction, found.model_version, found.estimates)
    else:
        raise InvalidInput("name an image: ?image=SeriesInstanceUID, ?session_id=, or an upload in the form field file")
    predictor, version = context.champions.predictor(task.name)
    prediction = predictor.predict(volume)
    return Answered(prediction, version, context.champions.estimates(task.name, version, prediction))


def _reply(context: Context, task: Task, made: Answered, output: Output, extension: str) -> Response:
    prediction, version, estimates = made
    started = time.perf_counter()
    content = b"" if output is Output.JSON else _label_file(context, prediction.mask, extension)
    params = replies.infer_params(prediction, version, time.perf_counter() - started, estimates)
    name = f"{task.name}_v{version}{extension}"
    if output is Output.JSON:
        return JSONResponse(params)
    return replies.attachment(content, name) if output is Output.IMAGE else replies.multipart(params, content, name)


def _label_file(context: Context, mask: Mask, extension: str) -> bytes:
    if extension not in WRITABLE:
        raise InvalidInput(f"result_extension must be one of {', '.join(WRITABLE)}, got {extension!r}")
    with scratch_folder(context.uploads) as folder:
        path = folder / f"label{extension}"
        write_labels(mask.array, mask.geometry, path)
        return path.read_bytes()


def _dicom_seg(context: Context, task: Task, uid: str) -> Response:
    made = predict_series(context.services, context.champions, task, uid)
    mask, version = made.prediction.mask, made.model_version
    if mask.is_empty:
        raise NotFound(f"version {version} of {task.name} found nothing in series {uid}: there is no SEG")
    origin = SegOrigin(
        kind="AUTOMATIC",
        author=MODEL_AUTHOR,
        algorithm_name=f"TransUNet {task.name}",
        algorithm_version=str(version),
        description=described(f"Prediction {task.name} v{version}", made.estimates, MAX_TEXT),
    )
    content = seg_file(mask, made.source, origin, new_uid(), new_uid())
    return replies.attachment(content or b"", f"{task.name}_v{version}.dcm", "application/dicom")
