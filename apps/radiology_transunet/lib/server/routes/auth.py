"""The log-in of MONAI Label's clients: the shared password for a signed token that names the user."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Form
from fastapi.responses import JSONResponse

from lib.server.context import Ctx
from lib.server.security import issue_token, same

router = APIRouter(prefix="/auth")


@router.get("", include_in_schema=False)
@router.get("/")
async def enabled(context: Ctx) -> dict[str, Any]:
    """Whether a password is needed."""
    return {"enabled": bool(context.settings.server.password), "client_id": "radiology_transunet", "realm": ""}


@router.post("/token")
async def token(context: Ctx, username: Annotated[str, Form()], password: Annotated[str, Form()]) -> JSONResponse:
    """A token for the right password; any user name, which is recorded as the author."""
    wanted = context.settings.server.password
    if not wanted:
        return JSONResponse({"access_token": None, "token_type": None})
    if not same(password, wanted):
        return JSONResponse({"detail": "wrong password", "error": "Refused"}, 401)
    return JSONResponse({"access_token": issue_token(username, wanted, time.time()), "token_type": "bearer"})


@router.get("/token/valid")
async def valid() -> dict[str, Any]:
    """Reached with a valid log-in alone."""
    return {}
