"""What the benchmarks share: who is held out, and cells that are made once."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

MAKES = """
import sys
from pathlib import Path
work, cell = sys.argv[-3].partition("=")[2], sys.argv[-1]
with (Path(work) / "made").open("a") as stream:
    stream.write(cell)
print("working")
print('{"value": "' + cell + '"}')
"""


def test_heads_are_held_out_whole_and_the_split_to_tune_on_shows_none_of_the_test_set(part) -> None:
    heads = part("heads")
    everyone = list(range(1, 131))
    learn, test = heads.divide(everyone, "test")
    tuned, dev = heads.divide(everyone, "dev")
    assert sorted([*learn, *test]) == everyone
    assert len(test) == round(0.25 * 130)
    assert sorted([*tuned, *dev]) == sorted(learn)
    assert len(dev) == round(0.25 * len(learn))
    assert heads.divide(everyone[::-1], "test")[1] == test
    assert [heads.head_of(Path(f"hippocampus_{n:03}.nii.gz")) for n in (1, 2, 3, 260)] == [1, 1, 2, 130]


def test_cells_are_made_once_and_again_where_a_kill_cut_their_line_or_their_key_has_changed(
    part, tmp_path: Path
) -> None:
    cells = part("cells")
    script = tmp_path / "script.py"
    script.write_text(MAKES)
    kitchen = cells.Kitchen(str(script), (), tmp_path, jobs=1, threads=1)
    keys = {("a",): "key a", ("b",): "key b"}
    expected = {("a",): {"value": "a"}, ("b",): {"value": "b"}}
    assert kitchen.make(keys, lambda cell, made: cell[0]) == expected
    assert kitchen.make(keys, lambda cell, made: cell[0]) == expected
    assert (tmp_path / "made").read_text() == "ab"
    whole = (tmp_path / "cells.jsonl").read_text()
    (tmp_path / "cells.jsonl").write_text(whole[:-5])
    assert kitchen.make(keys, lambda cell, made: cell[0]) == expected
    assert (tmp_path / "made").read_text() == "abb"
    kitchen.make({**keys, ("a",): "another key"}, lambda cell, made: cell[0])
    assert (tmp_path / "made").read_text() == "abba"


def test_published_cells_are_those_of_the_figures_and_make_them_again_elsewhere(part, tmp_path: Path) -> None:
    cells = part("cells")
    script = tmp_path / "script.py"
    script.write_text(MAKES)
    published = cells.beside(tmp_path / "results" / "some.json", "test")
    assert cells.beside(tmp_path / "some.json", "dev") is None
    keys = {("a",): "key a", ("b",): "key b"}
    here = cells.Kitchen(str(script), (), tmp_path / "here", jobs=1, threads=1, published=published)
    here.make({**keys, ("c",): "key c"}, lambda cell, made: cell[0])
    here.publish(keys.values())
    there = cells.Kitchen(str(script), (), tmp_path / "there", jobs=1, threads=1, published=published)
    assert there.finished() == {"key a": {"value": "a"}, "key b": {"value": "b"}}
    assert there.make(keys, lambda cell, made: cell[0]) == {("a",): {"value": "a"}, ("b",): {"value": "b"}}
    assert not (tmp_path / "there" / "cells.jsonl").exists()


def test_a_changed_option_changes_the_key_of_a_cell(part) -> None:
    module = part("hippocampus")
    usual = {"device": "cpu", "threads": 1}
    here = module.elsewhere(argparse.Namespace(**usual))
    assert here in ([], ["fp32"])  # as this processor computes in bf16, or not
    assert module.elsewhere(argparse.Namespace(**{**usual, "threads": 2})) == ["cpu", 2, *here]
    cells = part("cells")
    keys = {cells.key_of(*parts) for parts in (("a", 1), ("a", 2), (["a", 1],), ({"b": 1},), ({"b": None},))}
    assert len(keys) == 5


def test_the_hippocampus_recipe_is_that_of_the_figures_whatever_the_defaults_are(part) -> None:
    module = part("hippocampus")
    recipe = json.loads(json.dumps(module.asdict(module.RECIPE)))
    measured = json.loads(module.RESULTS.read_text())["recipe"]
    follows = {"steps", "batch_size", "seed"}  # from budget, network and cell
    assert {name: recipe[name] for name in measured.keys() - follows} == {
        name: measured[name] for name in measured.keys() - follows
    }


def test_a_distance_that_is_infinite_leaves_the_mean_and_is_counted(part) -> None:
    module = part("hippocampus")
    made = {
        "cases": [
            {"name": "one", "front": [0.9, 1.0, 0.8], "back": [0.0, None, 0.0]},
            {"name": "two", "front": [0.7, 3.0, 0.6]},
            {"name": "three", "front": [0.5, 2.0, 0.4]},
        ],
        "heads": {"one": "1", "two": "1", "three": "10"},
    }
    made = json.loads(json.dumps(made))
    assert module.head_means(made, "dice").tolist() == pytest.approx([1.6 / 3, 0.5])
    assert module.head_means(made, "hd95_mm").tolist() == [2.0, 2.0]
    assert module.head_means(made, "hd95_mm", "back")[0] != module.head_means(made, "hd95_mm", "back")[0]  # no value
    assert module.without_distance(made) == 1


def test_the_interval_of_a_mean_is_that_of_a_bootstrap_over_heads(part) -> None:
    module = part("hippocampus")
    heads = module.np.random.default_rng(3).normal(0.8, 0.05, 64)
    low, high = module.interval(heads)
    half = 1.96 * heads.std(ddof=1) / 8
    assert (low, high) == pytest.approx((heads.mean() - half, heads.mean() + half), abs=0.002)
    assert module.interval(module.np.full(5, 0.7)) == [0.7, 0.7]


def test_pairs_are_compared_head_by_head_and_seed_by_seed(part) -> None:
    module = part("hippocampus")

    def cell(values: list[float]) -> dict[str, object]:
        cases = [{"name": str(n), "front": [value, 1.0, 1.0]} for n, value in enumerate(values)]
        return {"cases": cases, "heads": {str(n): str(n) for n in range(len(values))}}

    made = {
        ("mine", "9", "0"): cell([0.8, 0.6]),
        ("mine", "9", "1"): cell([0.9, 0.5]),
        ("dynunet", "7", "0"): cell([0.7, 0.5]),
        ("dynunet", "7", "1"): cell([0.6, 0.2]),
    }
    found = module.against_peer(made, "mine")
    assert found["of_seeds"] == pytest.approx([0.1, 0.3])
    assert found["mean"] == pytest.approx(0.2)
    assert found["interval"] == pytest.approx([0.2, 0.2])


def test_risk_coverage_is_the_mean_risk_of_the_surest_shares_and_the_unknown_is_least_sure(part) -> None:
    quality = part("quality")
    dice, confidence = np.array([0.9, 0.5, 0.7]), np.array([0.8, np.nan, 0.95])
    # surest first: risks 0.3, 0.1, 0.5, so their running means are 0.3, 0.2, 0.3
    assert quality.risk_coverage(dice, confidence) == pytest.approx((0.3 + 0.2 + 0.3) / 3)
    # by the Dice itself: 0.1, 0.3, 0.5, so 0.1, 0.2, 0.3; nothing ranks better
    assert quality.risk_coverage(dice, dice) == pytest.approx(0.2)
    assert quality.risk_coverage(dice, -dice) == pytest.approx((0.5 + 0.4 + 0.3) / 3)


def test_figures_of_estimates_are_those_computed_by_hand(part) -> None:
    quality = part("quality")
    rows = [
        {"dice": 0.8, "value": 0.7, "low": 0.6, "high": 0.9, "agreement": 0.9, "is_familiar": True},
        {"dice": 0.4, "value": 0.6, "low": 0.5, "high": 0.8, "agreement": 0.95, "is_familiar": False},
    ]
    found = quality.figures(rows, missed=3)
    assert found == {
        "pairs": 2,
        "missed": 3,
        "mean_dice": pytest.approx(0.6),
        "mean_absolute_error": pytest.approx(0.15),
        "coverage": 0.5,
        "width": pytest.approx(0.3),
        "risk_coverage": pytest.approx((0.2 + 0.4) / 2),
        "risk_coverage_of_agreement": pytest.approx((0.6 + 0.4) / 2),
        "risk_coverage_at_best": pytest.approx((0.2 + 0.4) / 2),
        "flagged": 0.5,
    }
    unsure = quality.figures([{**rows[0], "low": float("nan"), "high": float("nan")}], missed=0)
    assert (unsure["coverage"], unsure["width"]) == (None, None)
    alone = quality.figures([{**rows[0], "agreement": float("nan")}], missed=0)
    assert alone["risk_coverage_of_agreement"] is None
    assert quality.figures([], missed=2) == {"pairs": 0, "missed": 2}


def test_without_samples_all_of_a_case_but_their_agreement_stays(part) -> None:
    quality = part("quality")
    told = {"volume_ml": 2.0, "largest_probability": 0.9, "samples_dice": 0.8}
    values = {"patient": "7", "evidence": {"a": told}, "dice": {"a": 0.5}, "embedding": [1.0]}
    found = quality.one_answer(quality.known(values))
    assert np.isnan(found.evidence["a"].samples_dice)
    assert (found.patient, found.dice, found.evidence["a"].volume_ml) == ("7", {"a": 0.5}, 2.0)


def test_the_mean_over_seeds_has_no_value_where_a_seed_has_none(part) -> None:
    quality = part("quality")
    found = [{"clean": {"width": 0.2, "coverage": None}}, {"clean": {"width": 0.4, "coverage": 0.9}}]
    assert quality.means(found) == {"clean": {"width": pytest.approx(0.3), "coverage": None}}


def test_the_verdict_holds_figures_against_the_goals(part) -> None:
    quality = part("quality")
    good = {"mean_absolute_error": 0.05, "coverage": 0.85, "risk_coverage": 0.1, "risk_coverage_of_agreement": 0.11}
    assert all(quality.verdict({**good, "pairs": 200}).values())
    bad = {"mean_absolute_error": 0.051, "coverage": 0.96, "risk_coverage": 0.11, "risk_coverage_of_agreement": 0.11}
    assert not any(quality.verdict({**bad, "pairs": 199}).values())
