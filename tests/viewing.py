"""Opens our pages in a real Chromium, for the browser tests and the pictures of the documentation."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect, sync_playwright

from lib.cli.parts import CHROMIUM_NAMES, apt_hint

SOFTWARE_WEBGL = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
WAIT_MS = 120_000
SIZE = {"width": 1500, "height": 900}


def find_chromium() -> str | None:
    """The browser that the doctor looks for too."""
    return next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)


def what_is_missing(viewer: Path) -> str:
    """What a browser test lacks on this machine and how to get it, "" when it can run.

    Args:
        viewer: folder of the unpacked OHIF viewer.
    """
    return no_browser() or (
        "" if (viewer / "index.html").is_file() else f"needs the OHIF viewer in {viewer}: scripts/setup"
    )


def no_browser() -> str:
    """What to install where there is no browser, "" where there is one."""
    return "" if find_chromium() else f"needs a browser, one of {', '.join(CHROMIUM_NAMES)}: {apt_hint('chromium')}"


@contextmanager
def browser_page(url: str, user: str = "", scale: float = 1.0) -> Iterator[Page]:
    """A page of a fresh browser at that server.

    Args:
        url: of the server.
        user: the annotator whom the browser remembers; "" for nobody.
        scale: pixels of a picture for each of the page.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(SOFTWARE_WEBGL))
        context = browser.new_context(viewport=SIZE, base_url=url, device_scale_factor=scale)
        context.set_default_timeout(WAIT_MS)
        if user:
            context.add_cookies([{"name": "transunet_user", "value": quote(user), "url": url}])
        yield context.new_page()
        browser.close()


def panel_of(page: Page) -> Locator:
    """Our panel in the viewer."""
    return page.locator("transunet-panel")


def load_mask(page: Page, what: str = "draft") -> None:
    """Show the draft or the label of the open case and wait until its segments are listed."""
    panel_of(page).get_by_role("button", name=f"Load {what}").click()
    expect(panel_of(page).get_by_role("status")).to_contain_text(f"{what.capitalize()} loaded", timeout=WAIT_MS)
    expect(page.locator("[data-cy='data-row']").first).to_be_visible(timeout=WAIT_MS)


def drag(page: Page, tool: str) -> None:
    """Press, move and release the mouse in the middle of the images with a tool of the viewer's toolbars."""
    page.locator(f"[data-cy='{tool}-btn']").click()
    place = page.locator("[data-viewportid]").bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x - 100, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 30, steps=8)
    page.mouse.up()
