"""What the repository promises of itself: versions that agree, links that lead somewhere, a lock without addresses."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "apps" / "radiology_transunet").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)\)")


def test_the_changelog_begins_with_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name if page.parent == ROOT else f"app-{page.name}")
def test_every_link_of_a_page_leads_to_a_file(page):
    broken = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert broken == []


def test_the_lock_names_every_direct_dependency_and_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "./compat/pydicom_seg" in lock
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[=<>\[]", line)[0].lower() for line in wanted} - {"pydicom-seg"}
    locked = {line.split("==")[0].lower() for line in lock.splitlines() if "==" in line}
    assert names - locked == set()


def test_decisions_are_numbered_without_gaps():
    text = (ROOT / "apps" / "radiology_transunet" / "DECISIONS.md").read_text()
    numbers = [int(number) for number in re.findall(r"^## (\d+)\.", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
