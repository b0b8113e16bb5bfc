"""How long people wait for a start, beside bare Python and MONAI Label's own command.

    python benchmarks/startup.py [--runs 5]

Measured: the help, the first line of a training, and the server until /info/ answers, with a real Orthanc behind it and
its worker beside it. The server's baseline is the same app under MONAI Label's own command. Every round measures each
command once, so that a slow minute of the machine meets all of them; the medians count. A round before the counted ones
fills the caches of files. Prints a table and writes benchmarks/results/startup.json. Needs Orthanc, and a machine that
does nothing else.
"""

import argparse
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lib.cli.files import write_json
from lib.cli.orthanc_process import OrthancProcess, free_port, start_orthanc
from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.dicom.nifti import write_mask, write_volume
from lib.taskfile import load_task
from surroundings import surroundings

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "apps" / "radiology_transunet"
RESULTS = Path(__file__).parent / "results" / "startup.json"
TASK = "phantom_ct"
LABEL = (str(Path(sys.executable).with_name("transunet-label")),)
STOCK = (sys.executable, "-m", "monailabel.main", "start_server", "--app", str(APP), "--host", "127.0.0.1")
LONGEST_S = 300.0
POLL_S = 0.02

Measure = Callable[[], float]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="counted rounds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        password = secrets.token_urlsafe(12)
        with start_orthanc(folder / "orthanc", free_port(), "bench", password) as orthanc:
            found = rounds(commands(folder, orthanc), options.runs)
    report = {
        "seconds": {name: {"median": round(statistics.median(s), 2), "runs": s} for name, s in found.items()},
        "load_before": round(load_before, 2),
        "surroundings": surroundings(),
    }
    print("\n".join(table(found)))
    write_json(options.out, report)


def commands(folder: Path, orthanc: OrthancProcess) -> dict[str, Measure]:
    """What is measured, by name; a baseline stands before what it belongs to."""
    make_pairs(folder)
    environment = {
        **os.environ,
        "PYTHONPATH": str(APP),
        "TRANSUNET_VAR": str(folder / "var"),
        "TRANSUNET_TASKS": TASK,
        "TRANSUNET_ARCHIVE__URL": orthanc.dicomweb_url,
        "TRANSUNET_ARCHIVE__USERNAME": orthanc.username,
        "TRANSUNET_ARCHIVE__PASSWORD": orthanc.password,
    }
    train = (*LABEL, "train", "--task", TASK, "--images", str(folder / "images"), "--labels", str(folder / "labels"))
    train = (*train, "--out", str(folder / "model"))
    stock = (*STOCK, "--studies", orthanc.dicomweb_url)
    return {
        "python -c pass": lambda: until_end((sys.executable, "-c", "pass"), environment),
        "transunet-label --help": lambda: until_end((*LABEL, "--help"), environment),
        "transunet-label train, first line": lambda: until_line(train, environment, folder),
        "monailabel start_server, ready": lambda: until_ready(stock, environment, folder),
        "transunet-label serve, ready": lambda: until_ready((*LABEL, "serve"), environment, folder),
    }


def rounds(measures: Mapping[str, Measure], runs: int) -> dict[str, list[float]]:
    """Seconds of each run by name; the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(runs + 1):
        for name, measure in measures.items():
            seconds = round(measure(), 3)
            if number:
                found[name].append(seconds)
    return found


def until_end(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds until a command has ended well."""
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=LONGEST_S)
    return time.perf_counter() - started


def until_line(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    """Seconds until a command prints its first line; it is ended then."""
    with (folder / "errors.log").open("wb") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        passed = time.perf_counter() - started
        end(process)
    if not line.strip():
        raise SystemExit(f"{' '.join(command)} printed nothing: {(folder / 'errors.log').read_text()[-2000:]}")
    return passed


def until_ready(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    """Seconds until a server answers /info/; it is ended then."""
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            (*command, "--port", str(port)),
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while not answers(f"http://127.0.0.1:{port}/info/"):
            if process.poll() is not None or time.perf_counter() - started > LONGEST_S:
                end(process)
                raise SystemExit(f"{' '.join(command)} does not come up: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(POLL_S)
        passed = time.perf_counter() - started
        end(process)
    return passed


def answers(url: str) -> bool:
    """Whether a server answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=LONGEST_S) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url} answers {error.code}: {error.read()[:500]!r}") from error
    except OSError:
        return False


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it started: asked first, so that the worker ends too."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def make_pairs(folder: Path, count: int = 4) -> None:
    """Small labelled images for the training."""
    schema = load_task(TASK).schema
    geometry = Geometry.from_spacing((8, 64, 64), (3.0, 2.0, 2.0))
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(count):
        values = rng.normal(0, 50, geometry.shape).astype(np.float32)
        write_volume(Volume(values, geometry, "CT"), folder / "images" / f"{number}.nii.gz")
        write_mask(
            Mask(rng.integers(0, 3, geometry.shape).astype(np.uint8), geometry, schema),
            folder / "labels" / f"{number}.nii.gz",
        )


def table(found: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| command | median | fastest | slowest |", "|---|---|---|---|"]
    for name, seconds in found.items():
        times = (statistics.median(seconds), min(seconds), max(seconds))
        lines.append(f"| `{name}` | " + " | ".join(f"{s:.2f} s" for s in times) + " |")
    return lines


if __name__ == "__main__":
    main()
