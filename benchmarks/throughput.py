"""Speed of every size of TransUNet, as a share of what the machine's matrix products reach.

    python benchmarks/throughput.py [--sizes tiny base] [--batch 8] [--side 224] [--repeats 7]

For each size: floating-point operations of one forward pass and of one training step (counted by torch), the time of
the fastest of several passes, and the rate as a share of a large fp32 matrix product of the same threads in the same
run. "served" is the network as it predicts (`lib.networks.fuse`), "plain" the one that trains, in eval mode. The matrix
product is measured beside each pass, alternating with it, so that a machine that changes its clock changes both. Prints
a table and writes benchmarks/results/throughput.json. Only an idle machine gives figures that mean something: the load
before the run is written down with them.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from lib.cli.files import write_json
from lib.networks.config import SIZES, NetworkConfig
from lib.networks.fuse import fuse
from lib.networks.transunet import TransUNet
from surroundings import surroundings

RESULTS = Path(__file__).parent / "results" / "throughput.json"
CHANNELS, CLASSES = 3, 9
MATRIX_SIDE = 4096
GIGA = 1e9


def seconds(work: Callable[[], object]) -> float:
    """How long something takes once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention; a multiply-add counts two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def measure(work: Callable[[], object], repeats: int, matrix: Tensor) -> dict[str, float]:
    """GFLOP, fastest seconds, GFLOP/s, and the share of the matrix rate, of some work."""
    product_flop = 2 * matrix.shape[0] ** 3
    flop = operations(work)  # also the pass that warms up
    pairs = [(seconds(lambda: matrix @ matrix), seconds(work)) for _ in range(repeats)]
    rate = product_flop / min(product for product, _ in pairs)
    fastest = min(spent for _, spent in pairs)
    return {
        "gflop": round(flop / GIGA, 2),
        "seconds": round(fastest, 5),
        "gflop_per_s": round(flop / fastest / GIGA, 1),
        "matrix_gflop_per_s": round(rate / GIGA, 1),
        "share": round(flop / fastest / rate, 4),
    }


def passes(size: str, batch: int, side: int) -> dict[str, Callable[[], object]]:
    """What is measured of a size: a served and a plain forward pass, and a training step without the optimiser."""
    torch.manual_seed(0)
    plain = TransUNet(NetworkConfig(size=size), CHANNELS, CLASSES).eval()
    plain.to(memory_format=torch.channels_last)
    served = fuse(deepcopy(plain))
    images = torch.randn(batch, CHANNELS, side, side).contiguous(memory_format=torch.channels_last)
    classes = torch.randint(CLASSES, (batch, side, side))

    def forward(network: nn.Module) -> Callable[[], object]:
        def run() -> None:
            network.eval()
            with torch.inference_mode():
                network(images)

        return run

    def step() -> None:
        plain.train()
        plain.zero_grad()
        F.cross_entropy(plain(images), classes).backward()

    return {"served": forward(served), "plain": forward(plain), "training step": step}


def compare(options: argparse.Namespace) -> None:
    """Measure and print each size; what is done is written after each, for a run takes a quarter of an hour."""
    torch.set_num_threads(options.threads)
    matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE)
    load = os.getloadavg()[0]
    found: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'size':<10} {'pass':<14} {'GFLOP':>9} {'seconds':>9} {'GFLOP/s':>8} {'matrix':>8} {'share':>7}")
    for size in options.sizes:
        found[size] = {}
        for name, work in passes(size, options.batch, options.side).items():
            if name not in options.passes:
                continue
            row = found[size][name] = measure(work, options.repeats, matrix)
            print(
                f"{size:<10} {name:<14} {row['gflop']:>9.2f} {row['seconds']:>9.4f} {row['gflop_per_s']:>8.1f} "
                f"{row['matrix_gflop_per_s']:>8.1f} {row['share']:>7.1%}",
                flush=True,
            )
        write(options, load, found)


def write(options: argparse.Namespace, load: float, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Replace the results by what has been measured so far in this run."""
    result = {
        "image": [options.batch, CHANNELS, options.side, options.side],
        "threads": options.threads,
        "repeats": options.repeats,
        "load_before": round(load, 2),
        "torch": torch.__version__,
        "sizes": found,
        "surroundings": surroundings(),
    }
    write_json(options.out, result)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    kinds = ("served", "plain", "training step")
    parser.add_argument("--passes", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224, help="rows and columns")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
