"""What each process of a torchrun group does in the tests of groups.

    python -m torch.distributed.run --nproc-per-node 2 tests/together.py FOLDER
    python -m torch.distributed.run --nproc-per-node 2 tests/together.py FOLDER die RANK STEP

The second one does the fit "slices", and its process RANK kills itself (SIGKILL) in the middle of the step after STEP.
Every fit of `FITS` is done by the group; each process leaves its result as FOLDER/NAME.RANK.pt.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.errors import InvalidMask
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.training.config import AugmentConfig, FitConfig
from lib.training.data import Batch, Case, Coverage
from lib.training.distributed import ALONE, Group, joined_by_torchrun
from lib.training.fit import FitResult, fit
from lib.training.losses import Loss
from lib.training.run import Run

if TYPE_CHECKING:
    from lib.workflows.executor.engine import FitJob
    from lib.workflows.shipping import Unpacked

SCHEMA = LabelSchema(
    (Label("bright", 5, (255, 0, 0), Code("1", "Bright")), Label("dark", 3, (0, 0, 255), Code("2", "Dark")))
)
SLICES = NetworkConfig(context_slices=1, dropout=0.0)
PATCHES = NetworkConfig(kind="transunet3d", patch=(16, 32, 32), dropout=0.0, deep_supervision=True)
ADAM = FitConfig(steps=5, batch_size=4, learning_rate=2e-3, checkpoint_every=2, ema_decay=0.9, grad_clip=0.05, seed=3)
SHORT = replace(ADAM, optimiser="sgd", learning_rate=1.0)
"""Weights follow the gradient itself; AdamW makes a step of a gradient that is nothing but rounding."""
CHANGED = AugmentConfig(flips=("rows",), elastic=0.05, low_resolution=0.5, share=0.7)
FITS: dict[str, tuple[NetworkConfig, FitConfig]] = {
    "slices": (SLICES, replace(SHORT, augment=CHANGED)),
    "adam": (SLICES, ADAM),
    "adaptive": (SLICES, replace(SHORT, adaptive_weights=True, loss="tversky_ce")),
    "blended": (SLICES, replace(SHORT, augment=replace(CHANGED, mixup=1.0))),
    "boxes": (SLICES, replace(SHORT, augment=replace(CHANGED, cutmix=1.0))),
    "best": (SLICES, replace(SHORT, keep="best", validate_every=2)),
    "accumulated": (SLICES, replace(SHORT, steps=3, batch_size=2, accumulate=4)),
    "dropout": (replace(SLICES, dropout=0.2), replace(SHORT, batch_size=2, accumulate=2)),
    "patches": (PATCHES, replace(SHORT, steps=3, batch_size=2)),
}
"""Network and training; batch_size is that of the whole step, so each of two processes has half of it."""


def make_case(seed: int) -> Case:
    """6 slices of 32 x 32: a bright and a dark box in noise; of odd seeds only the bright one was annotated."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((6, 32, 32), dtype=np.uint8)
    for label, left in ((5, 2), (3, 18)):
        row, column = rng.integers(2, 16), left + rng.integers(0, 4)
        mask[1:5, row : row + 10, column : column + 8] = label
    image = 100 * (mask == 5) - 100 * (mask == 3.0) + rng.normal(0, 20, mask.shape)
    geometry = Geometry.from_spacing(mask.shape, (3.0, 1.0, 1.0))
    coverage = Coverage(labels=("bright",)) if seed % 2 else Coverage()
    array = np.where(mask == 5, 5, 0).astype(np.uint8) if seed % 2 else mask
    volume = Volume(image.astype(np.float32), geometry, "MR")
    return Case(volume, Mask(array, geometry, SCHEMA), str(seed), f"c{seed}", coverage)


def fitted(name: str, folder: Path, group: Group = ALONE) -> FitResult:
    """A fit of `FITS` on three cases, measured on three others."""
    network, config = FITS[name]
    cases, judges = [[make_case(seed) for seed in seeds] for seeds in ((0, 1, 2), (4, 6, 8))]
    return fit(cases, judges, network, PreprocessConfig(), config, folder / name, "cpu", group=group)


def files_of(folder: Path, seeds: tuple[int, ...]) -> "Unpacked":
    """Cases as the cache has them."""
    from lib.workflows.casefiles import write_arrays, write_volume
    from lib.workflows.shipping import CaseFile, Unpacked

    found = []
    for seed in seeds:
        case = make_case(seed)
        volume, mask = folder / f"v{seed}.npz", folder / f"m{seed}.npz"
        write_volume(volume, case.volume)
        write_arrays(mask, array=case.mask.array)
        found.append(CaseFile(volume, mask, case.mask.schema, case.patient, case.name))
    return Unpacked(found, lambda parcel: parcel)  # type: ignore[arg-type,return-value]


def fit_job(folder: Path, **more: object) -> "FitJob":
    """A short training on three cases."""
    from lib.workflows.executor.engine import FitJob

    network, config = FITS["best"]
    config = replace(config, **more)  # type: ignore[arg-type]
    files = files_of(folder / "cache", (0, 2, 4)), files_of(folder / "cache", (6, 8))
    return FitJob(*files, network, PreprocessConfig(), config, folder / "job", "cpu")


def crowd(*ranks: int, least: int = 2, step: int = 3) -> None:
    """Let processes of those ranks find no memory for `least` pictures or more at a time from that step on."""
    honest = Run._forward

    def small(run: Run, images: Tensor, seed: int) -> tuple[Tensor, ...]:
        if run.group.rank in ranks and run.step >= step and len(images) >= least:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")
        return honest(run, images, seed)

    Run._forward = small  # type: ignore[method-assign]


def help_in_a_crowd(*arguments: object) -> None:
    """A helper of the local executor that finds memory for one picture at a time alone."""
    from lib.workflows.executor.local import help_fit

    crowd(1)
    help_fit(*arguments)  # type: ignore[arg-type]


def help_without_memory(*arguments: object) -> None:
    """One that finds none at all."""
    from lib.workflows.executor.local import help_fit

    crowd(1, least=1)
    help_fit(*arguments)  # type: ignore[arg-type]


def help_until_the_next_meeting(*arguments: object) -> None:
    """One that is killed, as the kernel does, where it would meet the others again."""
    from lib.workflows.executor.local import help_fit

    Group.meet_again = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    help_fit(*arguments)  # type: ignore[arg-type]


def length(name: str) -> int:
    """Something to map over names; one of them is refused."""
    if name == "bad":
        raise InvalidMask("bad is refused")
    return len(name)


def normed(group: Group) -> dict[str, Tensor]:
    """Two steps of a network with batch norm on eight pictures: its weights, statistics and the result's gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 1, 1))
    pictures = torch.randn(8, 2, 6, 6) * torch.arange(1, 9.0)[:, None, None, None]  # each process has other statistics
    group.synchronise(network)
    own = group.share(8)
    for _ in range(2):
        network.zero_grad()
        outputs = network(pictures[own.start : own.stop])
        group.total((outputs**3).sum()[None]).sum().backward()
        group.add_gradients(network)
    gradients = {f"{name}.grad": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {**network.state_dict(), **gradients}


def die(folder: Path, rank: int, step: int) -> None:
    """A fit in which one process is killed."""
    honest = Run._backward

    def deadly(run: Run, batch: Batch) -> Loss:
        if run.step == step and run.group.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(run, batch)

    with joined_by_torchrun() as group:
        Run._backward = deadly  # type: ignore[method-assign]
        fitted("slices", folder, group)


def main(folder: Path) -> None:
    """Do everything; each process writes what it has."""
    with joined_by_torchrun() as group:
        for name in FITS:
            result = fitted(name, folder / f"rank{group.rank}", group)
            values = {"losses": result.losses, "curve": result.curve, "dice": dict(result.dice)}
            torch.save({**values, "state": result.state_dict}, folder / f"{name}.{group.rank}.pt")
        torch.save(normed(group), folder / f"normed.{group.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        die(Path(sys.argv[1]), *map(int, sys.argv[3:]))
    else:
        main(Path(sys.argv[1]))
    os._exit(0)  # threads inside torch may crash an orderly end
