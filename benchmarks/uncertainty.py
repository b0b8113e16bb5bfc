"""What each kind of uncertainty costs on a large CT: CPU seconds by stage and the most memory beside the volume.

    python benchmarks/uncertainty.py [--kinds entropy dropout] [--slices 120] [--size tiny] [--samples 8]

A volume of noise, 512 x 512 pixels a slice, with 13 labels and a seeded random network of slices at 1.5 mm; each kind
in a process of its own, on one thread. Seconds are of the process, so other work on the machine counts less. Memory
is the highest resident size of the prediction less that before it. Float maps of all labels would be 1.6 GB a quantity
for 120 slices. Prints a table and writes benchmarks/results/uncertainty.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from lib.cli.files import write_json
from surroundings import surroundings

RESULTS = Path(__file__).parent / "results" / "uncertainty.json"
KINDS = ("entropy", "dropout", "tta", "ensemble")
LABELS, SIDE, BATCH = 13, 512, 8
MIB = 1024


def measure(kind: str, slices: int, size: str, samples: int) -> dict[str, object]:
    """One prediction in this process."""
    import numpy as np
    import torch

    from lib.core.geometry import Geometry
    from lib.core.labels import Code, Label, LabelSchema
    from lib.core.values import Volume
    from lib.inference.config import PredictConfig, PreprocessConfig, UncertaintyConfig
    from lib.inference.model import build_network, build_preprocess
    from lib.inference.predictor import Predictor
    from lib.networks.config import NetworkConfig
    from lib.networks.fuse import fuse

    torch.set_num_threads(1)
    torch.manual_seed(0)
    code = Code("1", "Organ")
    schema = LabelSchema(tuple(Label(f"label {n}", n, (9, 9, 9), code) for n in range(1, LABELS + 1)))
    config = NetworkConfig(size=size, dropout=0.1)
    networks = [fuse(build_network(config, schema)) for _ in range(samples if kind == "ensemble" else 1)]
    geometry = Geometry.from_spacing((slices, SIDE, SIDE), (3.0, 0.75, 0.75))
    values = np.random.default_rng(0).normal(0, 100, geometry.shape).astype(np.float32)
    volume = Volume(values, geometry, "CT")
    predictor = Predictor(
        networks[0],
        build_preprocess(PreprocessConfig(spacing_mm=1.5, window_hu=(-160, 240)), config),
        schema,
        torch.device("cpu"),
        BATCH,
        PredictConfig(flips=("slices", "rows", "columns") if kind == "tta" else ()),
        UncertaintyConfig(kind, samples, 0, "entropy"),  # type: ignore[arg-type]
        networks[1:],
    )
    before, started = _peak_mib(), time.process_time()
    prediction = predictor.predict(volume)
    return {
        "kind": kind,
        "cpu_s": round(time.process_time() - started, 1),
        "memory_mib": round(_peak_mib() - before),
        "quantities": list(prediction.quantities),
        "wall_s": {stage: round(spent, 1) for stage, spent in prediction.latencies_s.items()},
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def main() -> None:
    """Measure each kind in a child, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--slices", type=int, default=120)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.slices, options.size, options.samples)))
        return
    shared = [f"--slices={options.slices}", f"--size={options.size}", f"--samples={options.samples}"]
    rows = []
    print(f"{'kind':<10} {'CPU s':>8} {'MiB':>6}")
    for kind in options.kinds:
        command = [sys.executable, __file__, "--only", kind, *shared]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(f"{kind:<10} {rows[-1]['cpu_s']:>8} {rows[-1]['memory_mib']:>6}", flush=True)
    result = {"shape": [options.slices, SIDE, SIDE], "labels": LABELS, "size": options.size, "samples": options.samples}
    write_json(options.out, {**result, "rows": rows, "surroundings": surroundings()})


if __name__ == "__main__":
    main()
