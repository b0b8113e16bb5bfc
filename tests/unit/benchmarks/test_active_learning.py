"""The simulator of which case next: what it plays with, rounds that stay done, the product's choice, the figures."""

import argparse
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib.core.geometry import Geometry
from lib.core.values import Mask, Volume
from lib.selection.strategies import STRATEGIES
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.training.config import FitConfig
from lib.training.data import Case

TASK = replace(load_task("hippocampus_mr"), rare=("posterior hippocampus",))
FRONT, BACK = TASK.schema.names


def case(number: int, shows_back: bool = False) -> Case:
    """A bright block, and beside it a darker one where that is asked for; of the two sides of a patient."""
    geometry = Geometry.from_spacing((6, 24, 24), (1.0, 1.0, 1.0))
    ids = np.zeros((6, 24, 24), dtype=np.uint8)
    ids[1:5, 4:12, 4 + number % 3 : 14] = 1
    if shows_back:
        ids[1:5, 14:20, 6:16] = 2
    image = np.choose(ids, [0.0, 100.0, 60.0]) + np.random.default_rng(number).normal(0, 5, ids.shape)
    volume = Volume(image.astype(np.float32), geometry, "MR")
    return Case(volume, Mask(ids, geometry, TASK.schema), str(number // 2), f"case-{number:02}")


def game(part, folder: Path, **values):
    pool = [case(number, shows_back=number in (8, 9)) for number in range(12)]
    test = [case(number, shows_back=number % 2 == 0) for number in range(20, 23)]
    sites = {one.name: "first site" for one in (*pool, *test)}
    task = replace(TASK, training=FitConfig(steps=2, batch_size=2))
    usual = {
        "material": part("selection_presets").Material(task, pool, test, sites),
        "settings": load_settings([("inference.device", "cpu")], {}),
        "seed": 0,
        "start": 3,
        "rounds": 2,
        "per_round": 2,
        "device": "cpu",
        "folder": folder,
    }
    return part("selection_game").Game(**{**usual, **values})


def test_the_area_under_a_curve_is_that_of_trapezoids_over_labels(part) -> None:
    aubc = part("selection_figures").aubc
    assert aubc([3, 6, 12], [0.4, 0.6, 0.8]) == pytest.approx((3 * 0.5 + 6 * 0.7) / 9)
    assert aubc([3], [0.4]) == 0.4


def test_labels_needed_lie_on_the_straight_line_between_two_rounds(part) -> None:
    needed = part("selection_figures").labels_needed
    labels, heights = [3, 6, 9, 12], [0.4, 0.7, 0.6, 0.8]
    assert needed(labels, heights, 0.3) == 3
    assert needed(labels, heights, 0.5) == pytest.approx(4)
    assert needed(labels, heights, 0.75) == pytest.approx(11.25)  # the first time, though it falls in between
    assert needed(labels, heights, 0.81) is None


def test_streams_that_never_reach_the_goal_count_as_more_than_any(part) -> None:
    figures = part("selection_figures")

    def streams(*ends: float):
        return [[{"labels": 3, "dice": {"a": 0.4}}, {"labels": 6, "dice": {"a": end}}] for end in ends]

    found = figures.needed(streams(0.95, 0.95, 0.5), 1.0)["90%"]
    assert (found["reached"], found["of"]) == (2, 3)
    assert found["median"] == pytest.approx(3 + 3 * 0.5 / 0.55)
    assert figures.needed(streams(0.95, 0.5, 0.5), 1.0)["90%"] == {"reached": 1, "of": 3, "median": None}


def test_holm_multiplies_the_smallest_p_most_and_keeps_the_order(part) -> None:
    holm = part("selection_figures").holm
    assert holm({"a": 0.04, "b": 0.01}) == pytest.approx({"a": 0.04, "b": 0.02})
    assert holm({"a": 0.03, "b": 0.02}) == pytest.approx({"a": 0.04, "b": 0.04})
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_the_p_of_pairs_is_that_of_students_t(part) -> None:
    paired_p = part("selection_figures").paired_p
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(0.0742, abs=1e-4)  # t = 3.4641 with 2 degrees of freedom
    assert paired_p([-1.0, -2.0, -3.0]) == paired_p([1.0, 2.0, 3.0])
    assert paired_p([1.0, -1.0]) == pytest.approx(1.0)
    assert paired_p([0.0, 0.0]) == 1.0
    assert paired_p([1.0]) is None


def rounds(*heights: tuple[float, float]):
    """Rounds with these Dice of two labels, at 3, 6, ... cases."""
    return [
        {
            "labels": 3 * number,
            "dice": {"common": common, "cyst": cyst},
            "sites": {"second": (common + cyst) / 2},
            "false_alarms": {"cyst": 0.1},
            "showing": {"common": 3 * number, "cyst": number},
            "foreground_voxels": 100 * number,
            "corrected_voxels": 10 * (number - 1),
        }
        for number, (common, cyst) in enumerate(heights, start=1)
    ]


def test_a_row_has_the_means_of_the_seeds_and_the_curve_of_what_is_looked_at(part) -> None:
    figures = part("selection_figures")
    row = figures.row_of([rounds((0.8, 0.0), (0.9, 0.5)), rounds((0.6, 0.2), (0.7, 0.3))], "cyst", 0.8)
    assert row["curve"] == pytest.approx([0.4, 0.6])
    assert row["focus_curve"] == pytest.approx([0.1, 0.4])
    assert (row["aubc"], row["final"], row["worst_label"]) == pytest.approx((0.5, 0.6, 0.4))
    assert (row["focus"], row["focus_aubc"]) == pytest.approx((0.4, 0.25))
    assert (row["foreground_voxels"], row["corrected_voxels"]) == (200, 10)
    assert row["showing"]["cyst"] == [1, 2]
    assert figures.focus_dice(rounds((0.8, 0.4))[0], "second") == pytest.approx(0.6)
    plain = figures.row_of([rounds((0.8, 0.0))], None, None)
    assert (plain["focus_curve"], plain["needed"]) == (None, None)


def test_the_default_wins_where_holm_says_so_and_nothing_is_said_of_one_seed(part) -> None:
    figures = part("selection_figures")
    rows = {
        "default": {"of_seeds": [{"aubc": value} for value in (0.70, 0.72, 0.74)]},
        "random": {"of_seeds": [{"aubc": value} for value in (0.60, 0.63, 0.63)]},
        "entropy": {"of_seeds": [{"aubc": value} for value in (0.60, 0.80, 0.70)]},
    }
    found = figures.compared(rows, "default", ["random", "entropy"], ["aubc"])
    one = found["aubc"]["random"]
    assert one["mean"] == pytest.approx(0.1)
    assert one["half_interval"] == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)
    assert one["p_holm"] == pytest.approx(2 * one["p"])
    assert figures.verdict(found, 0.05) == {"wins": {"aubc": {"random": True, "entropy": False}}, "wins_all": False}
    assert figures.verdict(found, one["p_holm"] - 1e-6)["wins"]["aubc"]["random"] is False
    single = {name: {"of_seeds": row["of_seeds"][:1]} for name, row in rows.items()}
    told = figures.verdict(figures.compared(single, "default", ["random"], ["aubc"]), 0.05)
    assert told == {"wins": {"aubc": {"random": None}}, "wins_all": None}
    assert figures.verdict({}, 0.05) == {"wins": {}, "wins_all": None}


def test_presets_play_strategies_that_exist_and_compare_those_that_they_play(part) -> None:
    presets = part("selection_presets")
    for preset in presets.PRESETS.values():
        assert set(preset.strategies) <= set(STRATEGIES)
        assert {presets.OURS, *preset.others} <= set(preset.strategies)
    assert set(STRATEGIES) - set(presets.PRESETS["all"].strategies) == {"bald", "disagreement"}
    assert [preset.is_planned for preset in presets.PRESETS.values()] == [True, True, True, False]


def test_a_painted_finding_is_as_bright_as_it_says_and_of_whole_patients(part) -> None:
    rare_label, presets = part("rare_label"), part("selection_presets")
    schema = rare_label.task_with(presets.LESION).schema
    cases = [case(number) for number in range(20)]
    cases = [replace(one, mask=replace(one.mask, schema=schema)) for one in cases]
    made = rare_label.painted(cases, 0.2, "of a test", presets.LESION)
    patients = {one.patient for one in cases}
    showing = {one.patient for one in made if (one.mask.array == presets.LESION.label.id).any()}
    assert len(showing) == round(0.2 * len(patients))
    for one, before in zip(made, cases, strict=True):
        if one.patient not in showing:
            assert one is before
            continue
        inside = one.mask.array == presets.LESION.label.id
        assert inside.any()
        assert (one.mask.array == before.mask.array)[~inside].all()
        bright = np.percentile(before.volume.array, presets.LESION.percentile)
        away = np.abs([before.volume.array[inside], one.volume.array[inside]] - bright).mean(axis=1)
        assert away[1] < 0.5 * away[0]
    again = rare_label.painted(cases, 0.2, "of a test", presets.LESION)
    assert all((one.volume.array == two.volume.array).all() for one, two in zip(made, again, strict=True))


def test_a_second_site_has_whole_patients_and_bright_where_the_first_has_dark(part, monkeypatch) -> None:
    presets = part("selection_presets")
    cases = [case(number) for number in range(20)]
    monkeypatch.setattr(presets, "read_split", lambda data, split, task: (cases[:10], cases[10:]))
    made = presets.two_sites(TASK, Path(), "dev", 0)
    second = {one.patient for one in made.pool if made.sites[one.name] == presets.SECOND_SITE}
    assert len(second) == 1
    assert all((one.patient in second) == (made.sites[one.name] == presets.SECOND_SITE) for one in made.pool)
    assert sum(made.sites[one.name] == presets.SECOND_SITE for one in made.test) == 4
    for one, before in zip(made.pool, cases[:10], strict=True):
        if one.patient in second:
            correlation = np.corrcoef(one.volume.array.ravel(), before.volume.array.ravel())[0, 1]
            assert correlation == pytest.approx(-1, abs=0.01)
        else:
            assert one is before
        assert one.mask is before.mask


def test_the_start_set_is_of_different_patients_and_shows_each_label(part, tmp_path: Path) -> None:
    start_set = part("selection_rounds").start_set
    for seed in range(12):
        played = game(part, tmp_path, seed=seed)
        names = start_set(played)
        assert len({one.patient for one in played.find(names)}) == len(names) == 3
        assert {"case-08", "case-09"} & set(names)
        assert names == start_set(replace(played, material=replace(played.material, pool=played.material.pool[::-1])))
    assert len({start_set(game(part, tmp_path, seed=seed)) for seed in range(12)}) > 6


def test_a_cell_follows_from_what_is_played_and_not_from_who_plays(part, tmp_path: Path) -> None:
    module = part("active_learning")
    usual = {
        "preset": "rare", "split": "dev", "network": "tiny", "device": "cpu", "conf": [], "strategies": None,
        "seeds": None, "start": None, "rounds": None, "per_round": None, "steps": None,
    }  # fmt: skip

    def key(**changed) -> str:
        return module.key_of(argparse.Namespace(**{**usual, **changed}), 0)

    before = key()
    assert {key(preset="all"), key(seeds=3), key(steps=600), key(strategies=["random"])} == {before}
    changes = (
        {"preset": "plain"}, {"split": "test"}, {"network": "base"}, {"steps": 7}, {"rounds": 2}, {"start": 5},
        {"conf": ["selection.patient_cap=2"]}, {"conf": ["query.random_share=0"]},
    )  # fmt: skip
    assert len({before, *(key(**changed) for changed in changes)}) == 1 + len(changes)


@pytest.fixture
def untrained(part, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Networks as they are drawn, instead of trained ones; (round, cases) of each that was asked for."""
    import torch

    from lib.inference.model import build_network, build_preprocess
    from lib.inference.predictor import Predictor

    asked: list[tuple[int, int]] = []

    def trained(of, number, names):
        asked.append((number, len(names)))
        torch.manual_seed(number)
        network = build_network(TASK.network, TASK.schema)
        preprocess = build_preprocess(TASK.preprocess, TASK.network)
        return Predictor(network, preprocess, TASK.schema, torch.device("cpu"), 16)

    monkeypatch.setattr(part("selection_rounds"), "trained", trained)
    return asked


def test_rounds_grow_by_what_the_strategy_chose_and_stay_done(part, untrained, tmp_path: Path) -> None:
    played, module = game(part, tmp_path), part("selection_rounds")
    first = module.started(played)
    assert first.choices.keys() == STRATEGIES.keys()
    found = module.stream(played, "default")
    assert untrained == [(0, 3), (1, 5), (2, 7)]
    assert [one.labels for one in found] == [3, 5, 7]
    for before, after in pairwise(found):
        chosen = before.choices["default"]
        assert after.cases == (*before.cases, *chosen.cases)
        assert len(set(after.cases)) == len(after.cases)
        assert after.corrected_voxels == before.corrected_voxels + chosen.corrected_voxels
        assert after.foreground_voxels == sum(int((c.mask.array != 0).sum()) for c in played.find(after.cases))
    assert found[-1].choices == {}
    assert found[0].showing[BACK] == sum(name in ("case-08", "case-09") for name in found[0].cases)
    assert module.stream(played, "default") == found
    (tmp_path / "default-2.json").unlink()
    assert module.stream(played, "default")[1:2] == found[1:2]
    assert untrained[3:] == [(2, 7)]


def test_the_random_strategy_asks_no_model_of_cases_that_it_does_not_choose(
    part, untrained, tmp_path: Path, monkeypatch
) -> None:
    from lib.inference.predictor import Predictor

    played, choose = game(part, tmp_path), part("selection_choice").choose
    predictor = part("selection_rounds").trained(played, 0, ())
    seen, predict = [], Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda self, volume: seen.append(volume) or predict(self, volume))
    names = ("case-00", "case-03", "case-08")
    chosen = choose(played, predictor, 0, names, ["random"])["random"]
    assert len(seen) == played.per_round == len(set(chosen.cases) - set(names))
    assert choose(played, predictor, 0, names, ["random"])["random"] == chosen
    drafts = [predict(predictor, one.volume).mask.array != one.mask.array for one in played.find(chosen.cases)]
    assert chosen.corrected_voxels == sum(int(wrong.sum()) for wrong in drafts)


def test_the_default_alone_has_the_random_lane(part, untrained, tmp_path: Path) -> None:
    played, choice = game(part, tmp_path, per_round=9), part("selection_choice")
    predictor = part("selection_rounds").trained(played, 0, ())
    names = ("case-00", "case-03", "case-08")
    found = choice.choose(played, predictor, 0, names, ["default", "foreground_random"])
    lanes = {name: [why.startswith("random lane") for why in one.why] for name, one in found.items()}
    assert lanes["default"].count(True) == 1
    assert not any(lanes["foreground_random"])
    assert choice.query_of(played, "default").held_out_share == 0


def test_a_missed_label_has_a_dice_of_nothing_and_one_that_is_not_there_is_a_false_alarm(part, tmp_path: Path) -> None:
    played = game(part, tmp_path)
    labels = iter((1, 2, 2))

    def predict(volume):
        ids = np.zeros((6, 24, 24), dtype=np.uint8)
        ids[1:5, 4:12, 4:14] = next(labels)
        return SimpleNamespace(mask=SimpleNamespace(array=ids))

    found = part("selection_rounds").tested(played, SimpleNamespace(predict=predict))
    # of the test cases 20, 21 and 22 the front block has 8, 10 and 9 of 10 columns, and 21 has no back block
    assert found["dice"] == pytest.approx({FRONT: 2 * 8 / 18 / 3, BACK: 0.0})
    assert found["false_alarms"] == {BACK: 1.0}
    assert found["sites"] == {"first site": pytest.approx(found["dice"][FRONT] / 2)}


@pytest.mark.slow
def test_a_game_is_played_from_training_to_page(part, tmp_path: Path) -> None:
    module, selection = part("active_learning"), part("selection_rounds")
    played = game(part, tmp_path, rounds=1)
    preset = replace(module.PRESETS["rare"], strategies=("random", "default"), focus=BACK, seeds=1, rounds=1)

    def cell(found):
        one = [module.slim(asdict(each), name) for each, name in found]
        return {"rounds": one, "sets": {"pool": {"heads": 6, "cases": 12}, "test": {"heads": 2, "cases": 3}}}

    made = {(name, "0"): cell([(one, name) for one in selection.stream(played, name)]) for name in preset.strategies}
    made["start", "0"] = cell([(selection.started(played), "start")])
    made["full", "0"] = {**selection.full_data(played), "cpu_s": 1.0}
    result = {
        "preset": {"name": "rare", **asdict(preset)},
        **{"split": "dev", "network": "tiny", "device": "cpu"},
        "sets": made["start", "0"]["sets"],
        **module.judged(preset, made),
        "surroundings": part("surroundings").surroundings(),
    }
    module.show(result, preset.focus)
    page = module.page(result)
    assert page.count("<polyline") == 4
    assert "one seed shows nothing" in page
    assert "http" not in page
    assert "src=" not in page
    first, chosen, drawn = (made[name, "0"]["rounds"] for name in ("start", "default", "random"))
    assert first[0]["dice"] == chosen[0]["dice"] == drawn[0]["dice"]
    assert set(chosen[0]["choices"]) == {"default"}
    each = map(module.seconds_of, (first[0], chosen[1], drawn[1]))
    assert module.spent(made) == pytest.approx(1 + sum(each))
