"""Uploaded images that clients refer to by an id."""

from typing import Annotated, Any

from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import FileResponse, Response

from lib.core.errors import InvalidInput
from lib.server.context import Context, Ctx
from lib.server.identity import annotator
from lib.server.images import kept_upload
from lib.server.volumefiles import read_volume

router = APIRouter(prefix="/session")


@router.put("", include_in_schema=False)
@router.put("/")
async def create(
    context: Ctx, request: Request, files: Annotated[list[UploadFile], File()], expiry: int = 0
) -> dict[str, Any]:
    """Keep one image volume (NIfTI or NRRD) for some time."""
    if len(files) != 1:
        raise InvalidInput(f"a session takes one NIfTI or NRRD file, got {len(files)}; store DICOM in the archive")
    return await context.heavy.run(_create, context, files[0], annotator(request), float(expiry))


@router.get("/{session_id}", response_model=None)
async def show(
    context: Ctx, session_id: str, update_ts: bool = False, image: bool = False
) -> Response | dict[str, Any]:
    """What is known of a session, or its image."""
    session = await context.quick.run(context.sessions.get, session_id)
    return FileResponse(session.image, filename=session.name) if image else session.public()


@router.delete("/{session_id}")
async def remove(context: Ctx, session_id: str) -> dict[str, Any]:
    """Forget a session and its image."""
    session = await context.quick.run(context.sessions.get, session_id)
    await context.quick.run(context.sessions.remove, session_id)
    return session.public()


def _create(context: Context, upload: UploadFile, user: str, expiry_s: float) -> dict[str, Any]:
    with kept_upload(upload, context.uploads) as path:
        read_volume(path, "")  # an upload that is no volume is refused now, not at the first inference
        session = context.sessions.add(path, upload.filename or path.name, user, expiry_s)
    return {"session_id": session.id, "session_info": session.public()}
