"""Reports on disk: var/reports/<run>/ with report.html and report.json, there whole or not at all."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from lib.core.errors import InvalidInput, NotFound
from lib.workflows.report import MorningReport
from lib.workflows.reportpage import render

FOLDER = "reports"
PAGE = "report.html"
VALUES = "report.json"
RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")


def write_report(var: Path, report: MorningReport) -> Path:
    """Write a report beside its place, then move it there; an earlier one of the same run goes.

    Returns:
        Path of the page.

    Raises:
        InvalidInput: a name that is none.
    """
    target = _folder(var, report.run)
    unnamed = target.with_name(f".{report.run}.{os.getpid()}")
    shutil.rmtree(unnamed, ignore_errors=True)
    unnamed.mkdir(parents=True)
    (unnamed / PAGE).write_text(render(report), encoding="utf-8")
    (unnamed / VALUES).write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unnamed, target)
    return target / PAGE


def report_file(var: Path, run: str, name: str = PAGE) -> Path:
    """A file of a report.

    Raises:
        NotFound: no such report.
    """
    path = _folder(var, run) / name
    if not path.is_file():
        raise NotFound(f"there is no report {run}; see: transunet-label report --list")
    return path


def reports(var: Path) -> list[dict[str, Any]]:
    """The values of all reports, the newest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (var / FOLDER).glob(f"[!.]*/{VALUES}")]
    return sorted(found, key=lambda values: str(values["finished_at"]), reverse=True)


def _folder(var: Path, run: str) -> Path:
    if not RUN.fullmatch(run):
        raise InvalidInput(f"a report is named by letters, digits, dots, dashes and underscores, got {run!r}")
    return var / FOLDER / run
