"""What data teams ask: strange series, series like one, series that meet conditions; tags and cohorts.

Data sets are written by the command line alone: nobody names a path of this machine over HTTP.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from lib.core.errors import InvalidInput
from lib.server.context import Context, Ctx
from lib.server.identity import annotator
from lib.server.images import series_uid
from lib.workflows.collect import Split
from lib.workflows.curate import alike, outliers, search
from lib.workflows.curate.cohorts import cohort_dict, members_dict
from lib.workflows.curate.conditions import Conditions, day
from lib.workflows.curate.export import make_manifest
from lib.workflows.services import Services

router = APIRouter(prefix="/curation")

SHOWN = 50
"""Series that one reply holds unless told otherwise."""
MOST_IN_MANIFEST = 100
"""Series whose images a request may have read; larger cohorts take minutes, which no client waits for."""

Params = Annotated[dict[str, Any], Body()]
Number = float | None


@router.get("")
async def overview(context: Ctx) -> dict[str, Any]:
    """All tags with their numbers of series, and all cohorts."""
    return await context.quick.run(_overview, context.services)


@router.get("/outliers")
async def strange(
    context: Ctx,
    task: str = "",
    limit: int = SHOWN,
    every: Annotated[bool, Query(alias="all")] = False,
    version: int | None = None,
) -> dict[str, Any]:
    """Series unlike everything that is labelled, the strangest first, with nearest labelled ones and the reason."""
    return await context.heavy.run(_outliers, context, task, limit, every, version)


@router.get("/series")
async def find(
    context: Ctx,
    task: str = "",
    label: str = "",
    min_volume_ml: Number = None,
    max_volume_ml: Number = None,
    quantity: str = "entropy",
    min_uncertainty: Number = None,
    max_uncertainty: Number = None,
    min_dice: Number = None,
    max_dice: Number = None,
    site: str = "",
    since: str = "",
    until: str = "",
    state: str = "",
    split: str = "",
    tag: str = "",
    cohort: str = "",
    patient: str = "",
    order: str = "series",
    limit: int = SHOWN,
) -> dict[str, Any]:
    """Series that meet all conditions; numbers are what a model said last and must all hold of one label."""
    wanted = Conditions(
        label=label,
        volume_ml=(min_volume_ml, max_volume_ml),
        quantity=quantity,
        uncertainty=(min_uncertainty, max_uncertainty),
        dice=(min_dice, max_dice),
        site=site,
        since=day(since),
        until=day(until),
        state=state,
        split=split,
        tag=tag,
        cohort=cohort,
        patient=patient,
    )
    return await context.heavy.run(_search, context, task, wanted, order, limit)


@router.get("/series/{series}/like")
async def similar(
    context: Ctx, series: str, task: str = "", state: str = "", limit: int = SHOWN, version: int | None = None
) -> dict[str, Any]:
    """More series like this one, the most similar first."""
    return await context.heavy.run(_like, context, task, series_uid(series), state, limit, version)


@router.post("/series/{series}/tags")
async def tag_series(context: Ctx, request: Request, series: str, params: Params) -> dict[str, int]:
    """Add tags: {"tags": ["metal"]}."""
    tags, who = _texts(params, "tags"), annotator(request)
    curation = context.services.ledger.curation
    return {"added": await context.quick.run(curation.tag, [series_uid(series)], tags, who)}


@router.delete("/series/{series}/tags/{tag}")
async def untag_series(context: Ctx, request: Request, series: str, tag: str) -> dict[str, int]:
    """Take a tag back."""
    curation, who = context.services.ledger.curation, annotator(request)
    return {"removed": await context.quick.run(curation.untag, [series_uid(series)], [tag], who)}


@router.post("/cohorts")
async def create(context: Ctx, request: Request, params: Params) -> dict[str, Any]:
    """Make a cohort: {"name": "strange", "description": "unlike what is labelled"}."""
    name, description = _text(params, "name"), _text(params, "description", "")
    await context.quick.run(context.services.ledger.curation.create, name, description, annotator(request))
    return await context.quick.run(members_dict, context.services, name)


@router.get("/cohorts/{name}")
async def show(context: Ctx, name: str) -> dict[str, Any]:
    """A cohort with its series."""
    return await context.quick.run(members_dict, context.services, name)


@router.delete("/cohorts/{name}")
async def delete(context: Ctx, request: Request, name: str) -> dict[str, str]:
    """Forget a cohort; its series stay."""
    await context.quick.run(context.services.ledger.curation.delete, name, annotator(request))
    return {"deleted": name}


@router.post("/cohorts/{name}/series")
async def add(context: Ctx, request: Request, name: str, params: Params) -> dict[str, int]:
    """Put series into a cohort: {"series": ["1.2.3"]}."""
    series, who = [series_uid(uid) for uid in _texts(params, "series")], annotator(request)
    return {"added": await context.quick.run(context.services.ledger.curation.add, name, series, who)}


@router.delete("/cohorts/{name}/series/{series}")
async def remove(context: Ctx, request: Request, name: str, series: str) -> dict[str, int]:
    """Take a series out of a cohort."""
    curation, who = context.services.ledger.curation, annotator(request)
    return {"removed": await context.quick.run(curation.remove, name, [series_uid(series)], who)}


@router.get("/cohorts/{name}/manifest")
async def manifest(
    context: Ctx, name: str, task: str = "", split: Annotated[list[str] | None, Query()] = None
) -> dict[str, Any]:
    """UIDs, checksums and annotations of a cohort; of pool patients unless other splits are named."""
    return await context.heavy.run(_manifest, context, name, task, split or [Split.POOL.value])


def _overview(services: Services) -> dict[str, Any]:
    cohorts = [cohort_dict(row) for row in services.ledger.curation.cohorts()]
    return {"tags": services.ledger.curation.tags(), "cohorts": cohorts}


def _outliers(context: Context, task_name: str, limit: int, every: bool, version: int | None) -> dict[str, Any]:
    task = context.services.task(task_name)
    return outliers.outliers(context.services, task, limit, every, version).to_dict(task)


def _search(context: Context, task_name: str, wanted: Conditions, order: str, limit: int) -> dict[str, Any]:
    task = context.services.task(task_name)
    return search.search(context.services, task, wanted, order, limit).to_dict(task)


def _like(context: Context, task_name: str, series: str, state: str, limit: int, version: int | None) -> dict[str, Any]:
    task = context.services.task(task_name)
    return alike.like(context.services, task, series, limit, state, version).to_dict(task)


def _manifest(context: Context, name: str, task_name: str, splits: list[str]) -> dict[str, Any]:
    services = context.services
    size = services.ledger.curation.cohort(name).size
    if size > MOST_IN_MANIFEST:
        raise InvalidInput(
            f"a manifest over HTTP has at most {MOST_IN_MANIFEST} series, cohort {name} has {size}: "
            f"use transunet-label curate export {name} FILE --as manifest"
        )
    return make_manifest(services, services.task(task_name), name, splits)


def _texts(params: dict[str, Any], key: str) -> list[str]:
    found = params.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise InvalidInput(f'the body must be like {{"{key}": ["..."]}}, got {str(found)[:80]!r} for {key}')
    return found


def _text(params: dict[str, Any], key: str, default: str | None = None) -> str:
    found = params.get(key, default)
    if not isinstance(found, str):
        raise InvalidInput(f'the body must be like {{"{key}": "..."}}, got {str(found)[:80]!r} for {key}')
    return found
