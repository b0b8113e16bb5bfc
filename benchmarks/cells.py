"""Cells of a benchmark: each made once in a process of its own and kept; a run that was killed goes on.

A benchmark names its cells by tuples of words and makes one with `--cell WORD...`, printing JSON as its last line.
What is done is a line of cells.jsonl in the work folder, under a key that says all that the cell follows from but the
code and the data: delete the folder after changing one of them.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """

    script: str
    options: Sequence[str]
    work: Path
    jobs: int
    threads: int

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

    def finished(self) -> dict[str, Made]:
        """Cells in the work folder, by key; an empty line, and one that a kill cut short, is passed over."""
        found: dict[str, Made] = {}
        path = self.work / "cells.jsonl"
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


def key_of(*parts: object) -> str:
    """A checksum of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
