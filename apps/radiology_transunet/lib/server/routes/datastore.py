"""Images and labels as MONAI Label's clients see them: images by series, labels by series and tag.

The tag `final` is a human's label, `original` the model's latest draft. Images come into the archive by DICOMweb, so
nothing is added or removed here.
"""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, Response, UploadFile

from lib.core.errors import InvalidInput, NotFound
from lib.ledger.rows import AnnotationRow
from lib.server import describe, labels
from lib.server.context import Context, Ctx
from lib.server.errors import NotAllowed
from lib.server.identity import named_annotator
from lib.server.images import parameters, series_uid
from lib.server.labels import FINAL

router = APIRouter(prefix="/datastore")


class Listing(StrEnum):
    """How much a listing holds."""

    TRAIN = "train"
    STATS = "stats"
    ALL = "all"


@router.get("", include_in_schema=False)
@router.get("/")
async def listing(context: Ctx, output: Listing = Listing.STATS) -> Any:
    """Counts, the pairs to train on, or every image with its labels."""
    function = {
        Listing.STATS: lambda: describe.datastore_status(context.services),
        Listing.TRAIN: lambda: labels.training_pairs(context.services),
        Listing.ALL: lambda: labels.everything(context.services),
    }[output]
    return await context.quick.run(function)


@router.get("/image")
async def image(context: Ctx, image: str) -> Response:
    """The series as one NIfTI file, on the grid that labels must have."""
    return await context.heavy.run(labels.image_file, context, series_uid(image))


@router.head("/image")
async def has_image(context: Ctx, image: str) -> Response:
    """Whether the series is known and usable."""
    await context.quick.run(labels.usable_series, context.services, series_uid(image))
    return Response()


@router.get("/image/info")
async def image_info(context: Ctx, image: str) -> dict[str, Any]:
    """What the ledger knows of a series."""
    return await context.quick.run(labels.image_info, context.services, series_uid(image))


@router.put("/label")
async def save_label(
    context: Ctx,
    request: Request,
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = FINAL,
) -> dict[str, Any]:
    """Take a human's label in: NIfTI or NRRD on the grid of the series."""
    if tag and tag != FINAL:
        raise InvalidInput(f"people save labels with the tag {FINAL!r}, got {tag!r}")
    given = parameters(params)
    author = named_annotator(request, given)
    return await context.heavy.run(labels.save_upload, context, series_uid(image), label, given, author)


@router.get("/label")
async def label_file(context: Ctx, label: str, tag: str, extension: str = ".nii.gz") -> Response:
    """A label as a file on the grid of its series."""
    return await context.heavy.run(labels.label_file, context, label, tag, extension)


@router.head("/label")
async def has_label(context: Ctx, image: str, tag: str) -> Response:
    """Whether there is such a label."""
    await context.quick.run(labels.find, context.services, image, tag)
    return Response()


@router.get("/label/info")
async def label_info(context: Ctx, label: str, tag: str) -> dict[str, Any]:
    """What the ledger knows of a label."""
    return labels.annotation_info(await context.quick.run(_found, context, label, tag))


@router.put("", include_in_schema=False)
@router.put("/", include_in_schema=False)
@router.put("/image")
@router.delete("", include_in_schema=False)
@router.delete("/", include_in_schema=False)
@router.delete("/image")
async def refuse_image() -> None:
    """Images live in the archive."""
    raise NotAllowed("images come and go by DICOMweb: store them in the archive (POST /dicom-web/studies)")


@router.delete("/label")
@router.put("/label/info")
@router.put("/updatelabelinfo", include_in_schema=False)
@router.put("/image/info")
async def refuse_change() -> None:
    """What was recorded stays recorded."""
    raise NotAllowed("labels are never removed or rewritten; a reviewer uses transunet-label review accept or reject")


@router.get("/dataset")
async def dataset() -> None:
    """Whole data sets leave by DICOMweb."""
    raise NotFound(
        "there is no archive file of the data set; images and SEG are in the archive, /datastore/?output=train"
    )


def _found(context: Context, label: str, tag: str) -> AnnotationRow:
    return labels.find(context.services, label, tag)
