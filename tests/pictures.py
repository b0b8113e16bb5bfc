"""Takes the pictures of the documentation from a running demo: worklist, a draft in the viewer, the newest report.

scripts/demo                             # then correct some drafts, and in another shell:
source var/demo/environment && .venv/bin/transunet-label retrain
.venv/bin/python tests/pictures.py http://127.0.0.1:8000 docs
"""

import argparse
import math
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, expect

from viewing import WAIT_MS, browser_page, load_mask, panel_of

ANNOTATOR = "Dr. Vera Lindqvist"
VIEWER_SIZE = {"width": 1280, "height": 740}
WORKLIST_SIZE = {"width": 1280, "height": 960}
REPORT_SIZE = {"width": 1160, "height": 1800}
VIEWER_SCALE, WORKLIST_SCALE, REPORT_SCALE = 1.5, 1.25, 1.25
SETTLE_MS = 3000


def main() -> None:
    """Write viewer.png, worklist.png and report.png."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("url", help="of the server, with drafts of a trained model")
    options.add_argument("folder", type=Path, help="for the pictures")
    options.add_argument("--label", default="left kidney", help="whose middle slice is shown")
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    case = fullest(httpx.get(f"{given.url}/worklist.json?state=drafted", trust_env=False).json()["cases"])
    with browser_page(given.url, ANNOTATOR, WORKLIST_SCALE) as page:
        take_worklist(page, case, given.folder)
    with browser_page(given.url, ANNOTATOR, VIEWER_SCALE) as page:
        take_viewer(page, case, given.label, given.folder)
    with browser_page(given.url, ANNOTATOR, REPORT_SCALE) as page:
        take_report(page, given.folder)


def fullest(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The free case whose draft has most of every label: no organ is missing, none is tiny."""
    free = [case for case in cases if case["draft"]["stored"] and not case["holder"]]
    return max(free, key=lambda case: sum(math.log1p(voxels) for voxels in case["draft"]["voxels"].values()))


def take_worklist(page: Page, case: dict[str, Any], folder: Path) -> None:
    """The page that annotators start from, while this one has a case."""
    page.set_viewport_size(WORKLIST_SIZE)
    page.goto("/worklist")
    page.request.post(f"/cases/{case['series']}/hold")
    try:
        expect(page.locator("tr.mine")).to_be_visible(timeout=WAIT_MS)
        expect(page.get_by_text("Orthanc")).to_be_visible(timeout=WAIT_MS)
        keep(page, folder / "worklist.png")
    finally:
        page.request.post(f"/cases/{case['series']}/release")


def take_viewer(page: Page, case: dict[str, Any], label: str, folder: Path) -> None:
    """A draft on the images, with the list of its segments."""
    page.set_viewport_size(VIEWER_SIZE)
    page.goto(case["viewer"])
    load_mask(page)
    panel_of(page).get_by_role("button", name=label, exact=True).click()
    page.wait_for_timeout(SETTLE_MS)
    keep(page, folder / "viewer.png")


def take_report(page: Page, folder: Path) -> None:
    """The newest morning report: verdict, labels, curves and the first cases."""
    page.set_viewport_size(REPORT_SIZE)
    page.goto("/reports")
    page.locator("table a").first.click()
    expect(page.locator("figure img").first).to_be_visible(timeout=WAIT_MS)
    keep(page, folder / "report.png")


def keep(page: Page, path: Path) -> None:
    """Write what the page shows, packed well."""
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
