"""`transunet-label curate`: what it finds it lists and puts into cohorts, in words and as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from lib.cli import curate
from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.core.estimated import EstimatedDice
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewDraft, NewHuman, NewSeries

TASK = "phantom_ct"
GRID = {"shape": [2, 3, 4], "affine": np.diag([10.0, 10.0, 10.0, 1.0]).tolist()}  # 1 ml a voxel
FAR = "2.9"


class Site:
    """An installation whose command line a test uses; nothing here asks the archive."""

    def __init__(self, var: Path) -> None:
        self.ledger = Ledger(f"sqlite:///{var}/ledger.db")
        self.ledger.upgrade()
        self._environ = {"TRANSUNET_VAR": str(var), "TRANSUNET_TASKS": TASK, "COLUMNS": "250"}
        self._app = typer.Typer()
        self._app.add_typer(curate.app, name="curate")

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(self._app, ["curate", *arguments], env=self._environ)

    def told(self, *arguments: str) -> dict:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> Exception:
        error = self.run(*arguments).exception
        assert isinstance(error, Exception)
        return error

    def add(self, uid: str, at: float, liver_ml: float, split: str = "pool") -> None:
        """A series that a model embedded at a place, with a liver of that size."""
        self.ledger.series.add(NewSeries(uid, f"9.{uid}", f"patient-{uid}", split, "CT", "phantom", 3, "North"))
        self.ledger.series.set_ready(uid, (), "frame", GRID)
        told = {"liver": EstimatedDice(0.5, 0.4, 0.6, True)}
        values = {"volume_ml": {"liver": liver_ml}}
        self.ledger.annotations.add_draft(
            NewDraft(uid, TASK, "m", 1), None, {"liver": 0.25}, np.array([at, 0.0]), values=values, estimates=told
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Three labelled series, one like them and one far away."""
    made = Site(tmp_path)
    for n in range(3):
        made.add(f"1.{n}", float(n), 10.0)
        made.ledger.annotations.add_human(NewHuman(f"1.{n}", TASK, "anna", voxels={"liver": 9}), accept=True)
    made.add("2.1", 1.5, 20.0)
    made.add(FAR, 50.0, 400.0)
    return made


def test_outliers_are_listed_with_neighbours_and_reasons_and_put_into_a_cohort(site: Site) -> None:
    done = site.run("outliers", "--into", "strange")
    assert done.exit_code == 0
    assert FAR in done.stdout
    assert "2.1" not in done.stdout
    assert "1.2 (48): liver" in done.stdout
    assert "further than 3 of 3 labelled cases are from the other labelled ones" in done.stdout
    assert "1 of 1 series are new in cohort strange" in done.stderr
    assert "1 of 2 are outlying" in done.stderr
    assert "embeddings of model version 1 alone" in done.stderr
    assert site.run("cohort", "show", "strange").stdout.split() == [FAR]
    told = site.told("outliers", "--all", "--limit", "1")
    assert [one["series"] for one in told["series"]] == [FAR]
    assert told["series"][0]["neighbours"][0]["distance"] == 48.0


def test_series_are_found_by_conditions_in_words_and_as_values(site: Site) -> None:
    done = site.run("query", "--label", "liver", "--min-volume", "15", "--max-dice", "0.6", "--order", "volume")
    assert [line.split()[1] for line in done.stdout.splitlines() if "drafted" in line] == [FAR, "2.1"]
    assert "liver: 400 ml predicted, entropy 0.25, Dice 0.50" in done.stdout
    assert "2 of 2 series that meet the conditions" in done.stderr
    told = site.told("query", "--state", "labelled", "--site", "nor*", "--limit", "2")
    assert (told["total"], [one["series"] for one in told["series"]]) == (3, ["1.0", "1.1"])
    assert told["series"][0]["labels"]["liver"]["drawn_ml"] == 9.0
    assert site.told("query", "--min-uncertainty", "0.3")["total"] == 0


def test_series_like_one_are_listed_the_nearest_first(site: Site) -> None:
    told = site.told("like", "2.1", "--limit", "3")
    assert [(one["series"], one["distance"]) for one in told["series"]] == [("1.1", 0.5), ("1.2", 0.5), ("1.0", 1.5)]
    assert site.told("like", "2.1", "--state", "drafted")["series"][0]["series"] == FAR
    assert FAR in site.run("like", "2.1", "--state", "drafted").stdout
    assert isinstance(site.refused("like", "9.9"), NotFound)
    assert isinstance(site.refused("like", "2.1", "--version", "4"), NotFound)


def test_tags_are_added_counted_searched_and_removed(site: Site) -> None:
    assert site.run("tag", "metal,thick", "2.1", FAR).stdout == "4 tags added\n"
    assert site.told("tags") == {"metal": 2, "thick": 2}
    assert site.told("query", "--tag", "metal")["total"] == 2
    assert site.run("tag", "metal", "2.1", "--remove").stdout == "1 tags removed\n"
    assert "metal" in site.run("tags").stdout
    assert isinstance(site.refused("tag", "Not a tag", "2.1"), InvalidInput)


def test_a_cohort_is_made_filled_emptied_and_deleted(site: Site) -> None:
    assert site.run("cohort", "create", "odd", "--description", "strange ones").stdout == "cohort odd is made\n"
    assert isinstance(site.refused("cohort", "create", "odd"), Conflict)
    assert site.run("cohort", "add", "odd", "2.1", FAR).stdout == "2 of 2 series are new in cohort odd\n"
    assert site.run("cohort", "add", "new", "2.1").stdout == "1 of 1 series are new in cohort new\n"
    assert site.run("cohort", "remove", "odd", "2.1").stdout == "1 series are out of cohort odd\n"
    listed = json.loads(site.run("cohort", "list", "--json").stdout)
    assert [(row["name"], row["size"], row["description"]) for row in listed] == [
        ("new", 1, ""),
        ("odd", 1, "strange ones"),
    ]
    assert "strange ones" in site.run("cohort", "list").stdout
    assert [row["series"] for row in site.told("cohort", "show", "odd")["series"]] == [FAR]
    assert site.told("query", "--cohort", "odd")["total"] == 1
    assert site.run("cohort", "delete", "odd").stdout == "cohort odd is deleted\n"
    assert isinstance(site.refused("cohort", "show", "odd"), NotFound)


def test_an_export_of_gate_patients_alone_says_that_they_are_held_out(site: Site, tmp_path: Path) -> None:
    site.add("3.1", 0.0, 5.0, split="promotion")
    site.run("cohort", "add", "gate", "3.1")
    error = site.refused("export", "gate", str(tmp_path / "Dataset501_Gate"))
    assert isinstance(error, InvalidInput)
    assert "1 of promotion patients are held out" in str(error)
    assert "split must be one of" in str(
        site.refused("export", "gate", str(tmp_path / "Dataset501_Gate"), "--split", "test")
    )
    assert site.run("export", "gate", "x", "--as", "zip").exit_code == 2


@pytest.mark.parametrize("command", ["outliers", "query", "like", "tag", "tags", "export"])
def test_help_shows_an_example(site: Site, command: str) -> None:
    assert f"Example: transunet-label curate {command}" in " ".join(site.run(command, "--help").output.split())
