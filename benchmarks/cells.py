"""Cells of a benchmark: each made once in a process of its own and kept; a run that was killed goes on.

A benchmark names its cells by tuples of words and makes one with `--cell WORD...`, printing JSON as its last line.
What is done is a line of cells.jsonl in the work folder, under a key that says all that the cell follows from but the
code and the data: delete the folder after changing one of them. Those that published figures rest on lie beside the
results as well (`published`), so that the figures can be made of them again, and more seeds added, on another machine.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.atomic import replacing

Cell = tuple[str, ...]
Made = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kitchen:
    """Where and how cells are made.

    Attributes:
        script: path of the benchmark.
        options: its options that a cell needs, as they are typed.
        work: folder for what is done.
        jobs: cells at once.
        threads: CPU threads of each.
        published: file beside the results with the cells that these rest on; None = nowhere.
    """

    script: str
    options: Sequence[str]
    work: Path
    jobs: int
    threads: int
    published: Path | None = None

    def make(self, keys: Mapping[Cell, str], shown: Callable[[Cell, Made], str]) -> dict[Cell, Made]:
        """All cells, the missing ones being made.

        Args:
            keys: of each cell.
            shown: the line printed when a cell is done.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        known = self.finished()
        missing = [cell for cell, key in keys.items() if key not in known]

        def one(cell: Cell) -> None:
            made = self._in_a_process(cell)
            with (self.work / "cells.jsonl").open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps({"key": keys[cell], **made}) + "\n")  # after a line that a kill cut
            print(shown(cell, made), flush=True)

        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(one, missing))
        known = self.finished()
        return {cell: known[key] for cell, key in keys.items()}

    def publish(self, keys: Iterable[str]) -> None:
        """Write the cells of these keys beside the results, in place of what is there."""
        if self.published is None:
            return
        known = self.finished()
        self.published.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.published) as unnamed:
            lines = (json.dumps({"key": key, **known[key]}) for key in dict.fromkeys(keys))
            unnamed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def finished(self) -> dict[str, Made]:
        """Cells beside the results and in the work folder, by key; a line that a kill cut short is passed over."""
        found: dict[str, Made] = {}
        for path in filter(None, (self.published, self.work / "cells.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
                try:
                    cell = json.loads(line)
                except json.JSONDecodeError:
                    continue
                found[cell.pop("key")] = cell
        return found

    def _in_a_process(self, cell: Cell) -> Made:
        command = [sys.executable, self.script, *self.options, f"--work={self.work}", "--cell", *cell]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
        return dict(json.loads(answer.splitlines()[-1]))


def beside(results: Path, split: str) -> Path | None:
    """Where the cells of some results are published; those of the split "dev" nowhere."""
    return results.parent / "cells" / f"{results.stem}.jsonl" if split == "test" else None


def key_of(*parts: object) -> str:
    """A checksum of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
