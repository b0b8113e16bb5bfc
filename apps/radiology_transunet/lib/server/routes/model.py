"""The served weights, to download; weights never come in over HTTP."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from lib.server.context import Context, Ctx
from lib.server.errors import NotAllowed
from lib.workflows.models import require_champion

router = APIRouter(prefix="/model")


@router.get("/info/{model}")
async def info(context: Ctx, model: str) -> dict[str, Any]:
    """Checksum, version, metrics and manifest of the champion."""
    return await context.quick.run(_info, context, model)


@router.get("/{model}")
async def download(context: Ctx, model: str) -> FileResponse:
    """The champion's weights."""
    path, version = await context.quick.run(_weights, context, model)
    return FileResponse(path, media_type="application/octet-stream", filename=f"{model}_v{version}{path.suffix}")


@router.put("/{model}")
@router.delete("/{model}")
async def refuse(model: str) -> None:
    """Versions are made by training and served by the gate."""
    raise NotAllowed(
        f"weights of {model} do not change over HTTP: use transunet-label retrain, models promote, rollback"
    )


def _info(context: Context, model: str) -> dict[str, Any]:
    from lib.inference.model import read_manifest  # imports torch, which the start must not wait for

    task = context.services.task(model)
    champion = require_champion(context.services, task)
    manifest = read_manifest(champion.folder)
    return {
        "checksum": f"SHA256:{manifest.sha256}",
        "modified_time": int(champion.created_at.timestamp()),
        "version": champion.version,
        "metrics": dict(champion.metrics),
        "manifest": manifest.to_dict(),
    }


def _weights(context: Context, model: str) -> tuple[Path, int]:
    from lib.inference.model import read_manifest

    champion = require_champion(context.services, context.services.task(model))
    return champion.folder / read_manifest(champion.folder).weights, champion.version
