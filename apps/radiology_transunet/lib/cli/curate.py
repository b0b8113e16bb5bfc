"""`transunet-label curate`: find strange series and series like others, ask for some, tag them, export cohorts."""

import getpass
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from lib.cli import cohort

if TYPE_CHECKING:
    from lib.workflows.services import Services

app = typer.Typer(
    help="Look for rare cases, tag them, put them into cohorts, export those.",
    no_args_is_help=True,
)
app.add_typer(cohort.app, name="cohort")

State = Literal["labelled", "submitted", "held", "drafted", "todo"]
Split = Literal["pool", "calibration", "promotion"]
TASK = typer.Option("", "--task", help="Name of the task; empty = the default one.")
LIMIT = typer.Option(50, "--limit", min=1, help="How many at most.")
VERSION = typer.Option(
    None, "--version", help="Of the model whose embeddings are compared; empty = the one that suits."
)
INTO = typer.Option(
    "", "--into", help="Put the series that are listed into this cohort; it is made when there is none."
)
JSON = typer.Option(False, "--json", help="Machine-readable.")
SERIES = typer.Argument(..., metavar="SERIES...", help="SeriesInstanceUIDs.")


@app.command()
def outliers(
    task: str = TASK,
    limit: int = LIMIT,
    every: bool = typer.Option(False, "--all", help="Rank all series without a label, not the outlying ones alone."),
    version: int | None = VERSION,
    into: str = INTO,
    as_json: bool = JSON,
) -> None:
    """Series unlike everything that is labelled, the strangest first: nearest labelled series, and the reason.

    Example: transunet-label curate outliers --into strange
    """
    from lib.cli.context import current_services
    from lib.workflows.curate.outliers import outliers

    services = current_services()
    chosen = services.task(task)
    found = outliers(services, chosen, limit, every, version)
    _put(services, into, [one.case.series_uid for one in found.queue])
    if as_json:
        return _print_json(found.to_dict(chosen))
    table = _table("series", "unlike", "nearest labelled series", "why")
    for one in found.queue:
        near = "\n".join(f"{n.series_uid} ({n.distance:.3g}): {', '.join(n.labels) or 'empty'}" for n in one.neighbours)
        table.add_row(one.case.series_uid, f"{one.score:.2f}", near, "\n".join(one.reasons))
    Console().print(table)
    typer.echo(f"{found.outlying} of {found.compared} are outlying", err=True)
    return _say(found.notes)


@app.command()
def query(
    task: str = TASK,
    label: str = typer.Option("", help="That a person drew or a model predicted."),
    min_volume: float | None = typer.Option(None, help="Least predicted volume in ml."),
    max_volume: float | None = typer.Option(None, help="Largest predicted volume in ml; 0 = not predicted."),
    quantity: str = typer.Option("entropy", help="Which uncertainty: entropy, bald, margin, disagreement."),
    min_uncertainty: float | None = typer.Option(None, help="Least uncertainty of a label."),
    max_uncertainty: float | None = typer.Option(None, help="Largest uncertainty."),
    min_dice: float | None = typer.Option(None, help="Least estimated Dice of a label."),
    max_dice: float | None = typer.Option(None, help="Largest estimated Dice."),
    site: str = typer.Option("", help="Institution; * stands for any letters."),
    since: str = typer.Option("", help="First date of the series, like 2026-01-31."),
    until: str = typer.Option("", help="Last date."),
    state: State | None = typer.Option(None, help="Empty = any."),
    split: Split | None = typer.Option(None, help="What the patients are for; empty = any."),
    tag: str = typer.Option("", help="That the series has."),
    in_cohort: str = typer.Option("", "--cohort", help="That the series is in."),
    patient: str = typer.Option("", help="Beginning of the pseudonym."),
    order: str = typer.Option("series", help="series, volume, uncertainty, dice or date."),
    limit: int = LIMIT,
    into: str = INTO,
    as_json: bool = JSON,
) -> None:
    """Series that meet all conditions; numbers are what a model said last and must all hold of one label.

    Example: transunet-label curate query --label spleen --min-volume 400 --max-dice 0.7 --order dice
    """
    from lib.cli.context import current_services
    from lib.workflows.curate.conditions import Conditions, day
    from lib.workflows.curate.search import search

    services = current_services()
    chosen = services.task(task)
    wanted = Conditions(
        label=label,
        volume_ml=(min_volume, max_volume),
        quantity=quantity,
        uncertainty=(min_uncertainty, max_uncertainty),
        dice=(min_dice, max_dice),
        site=site,
        since=day(since),
        until=day(until),
        state=state or "",
        split=split or "",
        tag=tag,
        cohort=in_cohort,
        patient=patient,
    )
    found = search(services, chosen, wanted, order, limit)
    _put(services, into, [hit.case.series_uid for hit in found.hits])
    values = found.to_dict(chosen)
    if as_json:
        return _print_json(values)
    table = _table("series", "state", "site", "date", "labels", "tags")
    for row in values["series"]:
        labels = "\n".join(_label(name, row["labels"].get(name, {}), quantity) for name in row["matching"])
        table.add_row(row["series"], row["state"], row["site"], row["date"], labels, ", ".join(row["tags"]))
    Console().print(table)
    typer.echo(f"{len(found.hits)} of {found.total} series that meet the conditions", err=True)
    return _say(found.notes)


@app.command()
def like(
    series: str = typer.Argument(..., metavar="SERIES", help="SeriesInstanceUID."),
    task: str = TASK,
    state: State | None = typer.Option(None, help="Among series of that state alone; empty = any."),
    limit: int = LIMIT,
    version: int | None = VERSION,
    into: str = INTO,
    as_json: bool = JSON,
) -> None:
    """More series like this one, the most similar first, by what the model's encoder saw.

    Example: transunet-label curate like 1.2.3.4 --state drafted
    """
    from lib.cli.context import current_services
    from lib.workflows.curate.alike import like

    services = current_services()
    chosen = services.task(task)
    found = like(services, chosen, series, limit, state or "", version)
    _put(services, into, [case.series_uid for case, _ in found.near])
    if as_json:
        return _print_json(found.to_dict(chosen))
    table = _table("series", "distance", "state", "site", "date", "tags")
    for case, distance in found.near:
        table.add_row(case.series_uid, f"{distance:.4g}", case.state, case.site, case.date, ", ".join(case.tags))
    Console().print(table)
    return _say(found.notes)


@app.command()
def tag(
    tags: str = typer.Argument(..., metavar="TAG[,TAG...]", help="Lower-case letters, digits, dots, dashes."),
    series: list[str] = SERIES,
    remove: bool = typer.Option(False, "--remove", help="Take them back instead."),
) -> None:
    """Say something of series that no model says, for example metal or thick-slices.

    Example: transunet-label curate tag metal,thick-slices 1.2.3.4
    """
    from lib.cli.context import current_services

    curation = current_services().ledger.curation
    names = [name.strip() for name in tags.split(",")]
    change = curation.untag if remove else curation.tag
    changed = change(series, names, getpass.getuser())
    typer.echo(f"{changed} tags {'removed' if remove else 'added'}")


@app.command("tags")
def tags_(as_json: bool = JSON) -> None:
    """All tags, and how many series have each.

    Example: transunet-label curate tags
    """
    from lib.cli.context import current_services

    found = current_services().ledger.curation.tags()
    if as_json:
        return _print_json(found)
    table = Table("tag", "series")
    for name, count in found.items():
        table.add_row(name, str(count))
    return Console().print(table)


@app.command()
def export(
    name: str = typer.Argument(..., metavar="COHORT", help="Name of the cohort."),
    to: Path = typer.Argument(..., metavar="PATH", help="A folder that is not there yet; of a manifest, its file."),
    as_: Literal["manifest", "nnunet", "msd"] = typer.Option("nnunet", "--as", help="What is written."),
    splits: list[str] = typer.Option(
        ["pool"], "--split", help="Patients that may leave: pool, calibration, promotion."
    ),
    task: str = TASK,
    as_json: bool = JSON,
) -> None:
    """Write a cohort as a data set for training elsewhere, with accepted labels alone, or as a manifest.

    Calibration and promotion patients stay unless they are named: a model that has seen them cannot be judged here.

    Example: transunet-label curate export strange Dataset501_Strange --split pool --split calibration
    """
    from lib.cli.context import current_services
    from lib.workflows.curate.export import export_data_set, export_manifest

    services = current_services()
    chosen, who = services.task(task), getpass.getuser()
    tell = None if as_json else _tell
    more: dict[str, Any] = {"splits": tuple(dict.fromkeys(splits)), **({"tell": tell} if tell else {})}
    if as_ == "manifest":
        done = export_manifest(services, chosen, name, to, who, **more)
    else:
        done = export_data_set(services, chosen, name, as_, to, who, **more)
    if as_json:
        values = {key: done.manifest[key] for key in ("layout", "splits", "counts")}
        left_out = [asdict(one) for one in done.left_out]
        return _print_json({"path": str(done.path), "sha256": done.sha256, **values, "left_out": left_out})
    _say(tuple(f"{one.series_uid}: {one.reason}, {one.details}" for one in done.left_out))
    return typer.echo(f"{done.path}: {done.words}")


def _put(services: "Services", name: str, series_uids: list[str]) -> None:
    from lib.workflows.curate.cohorts import put

    if name:
        added = put(services, name, series_uids, getpass.getuser())
        typer.echo(f"{added} of {len(series_uids)} series are new in cohort {name}", err=True)


def _tell(share: float, message: str) -> None:
    typer.echo(f"{100 * share:3.0f} %  {message}", err=True)


def _say(notes: tuple[str, ...]) -> None:
    for note in notes:
        typer.echo(note, err=True)


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, indent=2))


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, overflow="fold")  # a UID that is cut is of no use
    for name in others:
        table.add_column(name, overflow="fold")
    return table


def _label(name: str, values: dict[str, Any], quantity: str) -> str:
    """A label with what is known of it."""
    drawn, predicted, unsure = (values.get(key) for key in ("drawn_ml", "predicted_ml", quantity))
    words = [f"{predicted:.3g} ml predicted"] if predicted else []
    words += [f"{drawn:.3g} ml drawn"] if drawn else []
    words += [f"{quantity} {unsure:.2f}"] if unsure is not None else []
    dice = values.get("estimated_dice", {}).get("value")
    words += [f"Dice {dice:.2f}"] if dice is not None else []
    return f"{name}: {', '.join(words)}" if words else name
