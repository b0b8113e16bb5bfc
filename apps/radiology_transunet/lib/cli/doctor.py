"""`transunet-label doctor`: every part of the installation, what was found, what is wanted, how to mend."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from lib.cli import parts
from lib.cli.parts import Part
from lib.cli.pins import Pin, read_pins
from lib.core.errors import ArchiveUnavailable, LabelError

if TYPE_CHECKING:
    from lib.settings import Settings
    from lib.workflows.services import Services

NAMED_PACKAGES = (
    "monailabel",
    "monai",
    "torch",
    "torchvision",
    "numpy",
    "pydicom",
    "highdicom",
    "python-gdcm",
    "dicomweb-client",
    "sqlalchemy",
    "alembic",
    "mlflow",
    "typer",
)
STAND_IN = "0.4.1.post1"
PRESENT = "there"


def doctor() -> None:
    """Look at every part: version found, wanted, how to mend. Ends with 1 when a needed part is missing.

    Example: transunet-label doctor
    """
    from lib.cli.context import current_settings

    found = list(examine(current_settings()))
    console = Console()
    console.print(as_table(found))
    broken = [part.name for part in found if part.required and not part.ok]
    if broken:
        console.print(f"[red]needs care:[/red] {', '.join(broken)}")
        raise typer.Exit(1)
    console.print("[green]everything needed is in place[/green]")


def examine(settings: "Settings") -> Iterator[Part]:
    """Every part, in the order in which to mend them."""
    from lib.workflows.services import open_services

    yield parts.python_part()
    yield parts.uv_part()
    yield from package_parts(read_pins(parts.LOCK.read_text(encoding="utf-8")))
    yield stand_in_part()
    services = open_services(settings)
    archive = archive_part(services)
    for own in (parts.orthanc_part(), parts.dicomweb_part()):
        yield replace(own, required=not archive.ok)  # an archive that answers needs none on this machine
    yield parts.ohif_part(settings.server.viewer_folder(settings.var))
    yield parts.chromium_part()
    yield parts.disk_part(settings.var)
    yield gpu_part(settings.inference.device)
    yield ledger_part(services)
    registry = registry_part(services)
    yield registry
    yield archive
    if registry.ok:
        yield from (champion_part(services, task) for task in services.tasks)


def package_parts(pins: tuple[Pin, ...]) -> Iterator[Part]:
    """The packages that matter one by one, and all others together."""
    for pin in pins:
        if pin.name in NAMED_PACKAGES:
            yield Part(pin.name, pin.found, pin.wanted, pin.met, "scripts/setup")
    unmet = [pin for pin in pins if not pin.met]
    names = ", ".join(f"{pin.name} {pin.found or 'missing'}" for pin in unmet)
    found = f"{len(pins) - len(unmet)} as pinned" + (f"; not so: {names}" if unmet else "")
    yield Part("all packages", found, f"{len(pins)} as pinned", not unmet, "scripts/setup")


def stand_in_part() -> Part:
    """Our own pydicom-seg, which must lie in the place of the dead one of that name."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("pydicom-seg")
    except PackageNotFoundError:
        found = ""
    return Part("pydicom-seg (stand-in)", found, STAND_IN, found == STAND_IN, "scripts/setup")


def gpu_part(wanted: str) -> Part:
    """The device that the networks would run on."""
    from lib.inference.devices import choose_device

    mend = "set inference.device to auto or cpu, or install a driver that `nvidia-smi` answers with"
    try:
        device = choose_device(wanted)
    except LabelError as error:
        return Part("device", "", wanted, False, f"{error}; {mend}")
    name = (
        parts.first_line(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) if device.type == "cuda" else ""
    )
    return Part("device", f"{device} {name}".strip(), wanted, True, required=False)


def ledger_part(services: "Services") -> Part:
    """The ledger's database, its schema and its key."""

    def check() -> None:
        services.ledger.check()
        services.ledger.keys.require_if_known(services.key)

    return _tried("ledger", "newest schema", check, "scripts/setup, or: transunet-label status")


def registry_part(services: "Services") -> Part:
    """MLflow's database."""
    settings = services.settings
    if not settings.registry.uri and not (settings.var / "mlflow.db").is_file():
        return Part("model registry", "", "an MLflow database", False, "scripts/setup")
    return _tried("model registry", "an MLflow database", services.registry.open, "scripts/setup")


def archive_part(services: "Services") -> Part:
    """The archive that the settings name."""
    url = services.settings.archive.url
    mend = "start Orthanc there, or set TRANSUNET_ARCHIVE__URL, __USERNAME and __PASSWORD; scripts/demo brings its own"
    try:
        info = services.archive.check()
    except ArchiveUnavailable as error:
        return Part("archive", f"away: {error}", url, False, mend)
    return Part("archive", f"Orthanc {info.version}", url, True, mend)


def champion_part(services: "Services", task: str) -> Part:
    """The model that serves a task."""
    model = services.registry.champion(task)
    found = f"version {model.version}" if model else ""
    mend = f"label some series, then: transunet-label retrain --task {task}"
    return Part(f"model of {task}", found, "a champion", model is not None, mend, required=False)


def as_table(found: list[Part]) -> Table:
    """The parts as people read them."""
    table = Table("part", "found", "wanted", "how to mend")
    for part in found:
        colour = "green" if part.ok else "red" if part.required else "yellow"
        table.add_row(
            part.name, f"[{colour}]{part.found or 'missing'}[/{colour}]", part.wanted, "" if part.ok else part.mend
        )
    return table


def _tried(name: str, wanted: str, check: Callable[[], None], mend: str) -> Part:
    """A part that is well when its check raises nothing."""
    try:
        check()
    except LabelError as error:
        return Part(name, str(error), wanted, False, mend)
    return Part(name, PRESENT, wanted, True, mend)
