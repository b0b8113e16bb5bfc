"""`transunet-label import-weights`: what weights from elsewhere give our network, for a training to start from."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lib.networks.config import NetworkConfig
    from lib.networks.pretrained import Imported
    from lib.taskfile import Task

DEFAULT_SIZE = "base"
DEFAULT_CHANNELS = 3
MOST_SHOWN = 6


def import_weights(
    file: Path = typer.Argument(
        ..., help="PyTorch checkpoint (.pth) of the reference TransUNet, or ViT archive (.npz)."
    ),
    network: str = typer.Option("", help="Size of the network, e.g. base; empty = the task's, or base."),
    task: str = typer.Option("", help="Task whose network is filled; empty = only look."),
    out: Path = typer.Option(None, help="Folder that `train --start` takes; needs --task."),
    channels: int = typer.Option(
        None, min=1, help="Slices that enter together; others than the file's share its kernels evenly."
    ),
    fresh_head: bool = typer.Option(
        False, help="Leave the file's last convolution out, for other labels than its own."
    ),
    seed: int = typer.Option(0, min=0, help="Of what the file does not have."),
) -> None:
    """Take over the weights of another TransUNet or vision transformer, and say what went where.

    Example: transunet-label import-weights R50+ViT-B_16.npz --task liver_ct --out var/start
    """
    from lib.core.errors import InvalidSettings
    from lib.taskfile import load_task

    if out is not None and not task:
        raise InvalidSettings("--out needs --task: the folder says which labels and which preprocessing it is for")
    chosen = load_task(task) if task else None
    config, width = _network(chosen, network, channels)

    from lib.inference.foreign import read_weights, take_over

    classes = len(chosen.schema) + 1 if chosen is not None else None
    imported = take_over(read_weights(file), config, width, classes, "fresh" if fresh_head else "same", seed)
    _show(imported, file, config.size)
    if chosen is None or out is None:
        return

    from lib.inference.model import Manifest, save_model

    save_model(out, Manifest.describe(chosen, seed), imported.state)
    rest = "train it before it predicts, its decoder knows nothing yet: " if imported.fresh else "train on from there: "
    typer.echo(f"written to {out}; {rest}transunet-label train --task {task} --start {out} --images DIR --labels DIR")


def _network(task: "Task | None", size: str, channels: int | None) -> "tuple[NetworkConfig, int]":
    """The network to fill and the number of slices that enter it.

    Raises:
        InvalidSettings: a size or a number of channels that the task contradicts.
    """
    from lib.core.errors import InvalidSettings
    from lib.networks.config import NetworkConfig

    if task is None:
        return NetworkConfig(size=size or DEFAULT_SIZE), channels or DEFAULT_CHANNELS
    config = task.network
    if size and size != config.size:
        raise InvalidSettings(f"--network is {size}, but task {task.name} has network.size {config.size}; change one")
    if channels and channels != config.in_channels:
        raise InvalidSettings(
            f"--channels is {channels}, but task {task.name} has {config.in_channels} with network.context_slices "
            f"{config.context_slices}; change one"
        )
    return config, config.in_channels


def _show(imported: "Imported", file: Path, size: str) -> None:
    """Print what went where: a line a module, totals, what was adapted, kept and left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for title in ("module", "tensors", "numbers", "from"):
        table.add_column(title, justify="right" if title in ("tensors", "numbers") else "left", overflow="fold")
    for module, names in _modules(imported.state).items():
        numbers = sum(imported.state[name].numel() for name in names)
        table.add_row(module, str(len(names)), f"{numbers:,}", _origin(imported, names))
    console = Console(soft_wrap=True)
    console.print(table)
    filled = sum(imported.state[name].numel() for name in imported.sources)
    fresh = sum(imported.state[name].numel() for name in imported.fresh)
    used = sum(len(found) for found in imported.sources.values())
    typer.echo(f"{file.name} ({imported.layout} layout): {used} tensors fill {filled:,} numbers of {size}")
    typer.echo(f"not in the file, drawn from the seed: {fresh:,} numbers{_some(_modules(imported.fresh))}")
    typer.echo(f"in the file, of no use here: {len(imported.unused)} tensors{_some(imported.unused)}")
    for change in imported.changes:
        typer.echo(f"adapted: {change}")


def _modules(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of the network's tensors by their first two parts, in the network's order."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for name in names:
        grouped[".".join(name.split(".")[:2])].append(name)
    return grouped


def _origin(imported: "Imported", names: list[str]) -> str:
    """What the foreign names of some tensors have in common."""
    found = [source for name in names for source in imported.sources.get(name, ())]
    if not found:
        return "drawn from the seed"
    shared = "".join(letters[0] for letters in takewhile(lambda at: len(set(at)) == 1, zip(*found, strict=False)))
    return shared if len(found) == 1 else f"{shared}…"


def _some(names: Iterable[str]) -> str:
    """The first of some names, in brackets."""
    found = list(names)
    more = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    return f" ({', '.join([*found[:MOST_SHOWN], *more])})" if found else ""
