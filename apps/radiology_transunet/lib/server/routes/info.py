"""What the application is and how it is doing."""

from typing import Any

from fastapi import APIRouter

from lib.server import describe
from lib.server.context import Context, Ctx

router = APIRouter(prefix="/info")


@router.get("", include_in_schema=False)
@router.get("/")
async def info(context: Ctx) -> dict[str, Any]:
    """Models, trainers, strategies, counts, and whether the archive answers."""
    return {**await context.quick.run(app_info, context), "archive": context.watch.state()}


def app_info(context: Context) -> dict[str, Any]:
    """The reply's part that the ledger and the registry know."""
    services = context.services
    return {
        "name": describe.NAME,
        "description": describe.DESCRIPTION,
        "version": describe.VERSION,
        "labels": describe.label_names(services),
        "models": describe.models(services),
        "trainers": describe.trainers(services),
        "strategies": describe.strategies(services),
        "scoring": {name: {"description": text} for name, text in describe.SCORING.items()},
        "train_stats": {task.name: describe.train_stats(services, task) for task in services.tasks.values()},
        "datastore": describe.datastore_status(services),
        "champions": {
            task.name: describe.champion(services, task, context.warm.is_set(), context.champions)
            for task in services.tasks.values()
        },
    }
