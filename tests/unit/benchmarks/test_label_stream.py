"""The label stream's parts: who is in which set, nights that stay done, the recipe's start, and the figures."""

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib.inference.model import build_network
from lib.settings import load_settings
from lib.taskfile import load_task
from lib.workflows.recipe import AHEAD, LINE, start_of


def night(part, number: int, **values):
    usual = {"labels": number, "steps": 1, "train_s": 1.0, "judge_s": 0.0, "made": 0.5, "served": 0.5, "promoted": True}
    return part("stage").Night(number=number, **{**usual, **values})


def stage(part, folder: Path, **values):
    usual = {
        "task": load_task("hippocampus_mr"),
        "settings": load_settings([("inference.device", "cpu")], {}),
        "peer": None,
        "peer_looks": 2,
        "counts": (2, 4),
        "pool": (),
        "calibration": (),
        "promotion": [SimpleNamespace(patient=str(n)) for n in range(8)],
        "test": (),
        "seed": 1,
        "folder": folder,
    }
    return part("stage").Stage(**{**usual, **values})


def test_every_head_is_in_one_of_four_sets_whatever_the_order_of_the_files(part) -> None:
    stream, heads = part("label_stream"), part("heads")
    learn, test = heads.divide(range(1, 133), "test")
    shares = load_settings((), {}).ledger.splits
    sets = stream.sets_of(learn, shares)
    assert sorted([*sets["pool"], *sets["calibration"], *sets["promotion"], *test]) == list(range(1, 133))
    assert [len(sets[name]) for name in ("calibration", "promotion", "pool")] == [15, 15, 69]
    assert stream.sets_of(learn[::-1], shares) == sets


def test_a_cell_is_made_anew_for_settings_that_its_way_follows_and_for_no_others(part) -> None:
    stream = part("label_stream")
    usual = {"split": "dev", "steps": 60, "stream": (4, 6), "peer_steps": 1.0, "peer_rate": 0.3}
    usual |= {"peer_looks": 2, "conf": []}

    def keys(**changed) -> dict[str, str]:
        options = argparse.Namespace(**{**usual, **changed})
        return {way: stream.key_of(options, way, 0) for way in stream.NAMES}

    before = keys()

    def changed_ways(**changed) -> set[str]:
        return {way for way, key in keys(**changed).items() if key != before[way]}

    assert len(set(before.values())) == 3
    assert changed_ways(stream=[4, 6]) == set()
    assert changed_ways(conf=["recipe.steps=0.2"]) == {"recipe"}
    assert changed_ways(conf=["gate.margin=0.1"]) == {"recipe"}
    assert changed_ways(peer_rate=1.0) == changed_ways(peer_looks=3) == {"monailabel"}
    assert changed_ways(conf=["recipe.validations=2"]) == {"recipe"}
    for changed in ({"steps": 61}, {"split": "test"}, {"stream": (4, 7)}):
        assert changed_ways(**changed) == {"recipe", "monailabel", "scratch"}


def test_the_other_way_learns_at_a_constant_rate_without_an_average_of_weights(part) -> None:
    stream, task = part("label_stream"), load_task("hippocampus_mr")
    config = stream.peer_config(task, 600, 0.5, 0.3)
    assert (config.steps, config.schedule, config.warmup, config.ema_decay) == (300, "constant", 0.0, 0.0)
    assert config.learning_rate == pytest.approx(0.3 * task.training.learning_rate)
    assert config.max_minutes is None
    assert stream.scratch_config(task, 600) == replace(task.training, steps=600, max_minutes=None)


def test_the_tail_of_a_list_is_a_fifth_and_leaves_something_to_learn_from(part) -> None:
    assert [part("nights").tail_of(count) for count in (2, 4, 6, 9, 14, 22, 36, 60, 100)] == [
        1, 1, 1, 2, 3, 4, 7, 12, 20,
    ]  # fmt: skip


def test_a_night_that_is_done_stays_done_and_a_file_that_was_cut_is_no_night(part, tmp_path: Path) -> None:
    nights, made = part("nights"), []

    def way(of, number: int, before) -> object:
        made.append((number, [one.number for one in before]))
        if len(made) == 2:
            raise KeyboardInterrupt
        return night(part, number, tags={"start": "x"}, exam={"dice": [[0.5, None]], "calibration_error": None})

    with pytest.raises(KeyboardInterrupt):
        nights.stream(stage(part, tmp_path), way)
    (tmp_path / ".night-2.json").write_text("{")
    found = nights.stream(stage(part, tmp_path), way)
    assert made == [(1, []), (2, [1]), (2, [1])]
    assert [one.number for one in found] == [1, 2]
    assert found[0].exam == {"dice": [[0.5, None]], "calibration_error": None}
    assert nights.stream(stage(part, tmp_path), way) == found


def test_the_recipe_finds_on_the_shelf_what_it_starts_from(part, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lib.workflows.recipe._fits", lambda version, task: version.folder.parent == tmp_path)
    shelf_of, fresh, warm = part("stage").Shelf, {"start": "fresh weights"}, {"start": "version 1"}
    task = load_task("hippocampus_mr")

    def start(*nights) -> int | None:
        return start_of(shelf_of(stage(part, tmp_path), nights).services(), task)

    first, kept = night(part, 1, tags=fresh), night(part, 2, promoted=False, tags=warm)
    assert start() is None
    assert start(first, kept) == 1
    assert start(first, night(part, 2, tags=warm)) == 2
    assert start(first, night(part, 2, promoted=False, tags={**fresh, LINE: AHEAD})) == 2
    every = stage(part, tmp_path).settings.recipe.reference_every
    line = [night(part, number, tags=warm) for number in range(2, every + 1)]
    assert start(first, *line[:-1]) == every - 1
    assert start(first, *line) is None  # so many nights are followed by the reference


@pytest.fixture
def fits(part, monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What the nights ask to be trained; nothing is, and figures follow from the model's name."""
    nights, asked = part("nights"), []
    task = load_task("hippocampus_mr")
    state = build_network(task.network, task.schema).state_dict()

    def trained(of, cases, validation, config, start=None, weights=None):
        asked.append(SimpleNamespace(cases=cases, validation=validation, config=config, start=start, weights=weights))
        return SimpleNamespace(state_dict=state, steps=config.steps, dice=dict.fromkeys(task.schema.names, 0.5))

    monkeypatch.setattr(nights, "trained", trained)
    monkeypatch.setattr("lib.training.measure.validate", lambda *given: dict.fromkeys(task.schema.names, 0.5))
    monkeypatch.setattr(nights, "opened", lambda of, folder: folder.name)
    monkeypatch.setattr(nights, "tested", lambda of, name: {"model-1": 0.6, "model-2": 0.7}.get(name, 0.2))
    monkeypatch.setattr(nights, "examined", lambda of, name: {"dice": [[0.5, 0.5]] * 8, "calibration_error": 0.1})
    return asked


def test_a_night_of_the_recipe_goes_on_from_the_champion_with_half_new_labels(part, fits, tmp_path: Path) -> None:
    task = load_task("hippocampus_mr")
    here = stage(part, tmp_path, pool="abcd", calibration="xyz", counts=(3, 4))
    first, second = part("nights").stream(here, part("nights").by_recipe)
    fresh, warm = fits
    recipe = here.settings.recipe
    assert (fresh.start, fresh.weights, fresh.config.steps) == (None, None, task.training.steps)
    assert (warm.cases, warm.validation) == ("abcd", "xyz")
    assert warm.weights == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert warm.config.steps == round(recipe.steps * task.training.steps)
    assert warm.config.learning_rate == pytest.approx(recipe.rate * task.training.learning_rate)
    assert (warm.config.keep, warm.config.validate_every) == ("last", 0)  # one look chooses nothing
    assert warm.start is not None
    assert (first.promoted, first.served) == (True, 0.6)
    assert (second.promoted, second.made, second.served) == (False, 0.7, 0.6)  # no gain on the promotion patients
    assert second.tags == {"start": "version 1"}


def test_a_night_of_the_other_way_serves_the_best_on_the_tail_and_tells_of_its_first_look(
    part, fits, tmp_path: Path
) -> None:
    task = load_task("hippocampus_mr")
    peer = part("label_stream").peer_config(task, 100, 0.5, 0.3)
    here = stage(part, tmp_path, pool="abcdefghij", counts=(4, 10), peer=peer)
    first, second = part("nights").stream(here, part("nights").by_peer)
    run, look = fits[2:]
    assert (run.cases, run.validation, look.cases) == ("abcdefgh", "ij", "abcdefgh")
    assert (run.config.keep, run.config.steps, run.config.validate_every) == ("best", 50, 25)
    assert (look.config.keep, look.config.steps, look.config.seed) == ("last", 25, run.config.seed)
    assert (fits[0].start, fits[0].config.steps) == (None, here.task.training.steps)
    assert run.start.keys() == look.start.keys()
    assert (first.served, second.served, second.first) == (0.6, 0.7, 0.2)
    assert second.steps == 50  # the look is not counted


def test_a_night_from_scratch_learns_from_all_labels_with_fresh_weights(part, fits, tmp_path: Path) -> None:
    nights = part("nights").stream(stage(part, tmp_path, pool="abcd"), part("nights").from_scratch)
    assert [(one.cases, one.start, one.validation) for one in fits] == [("ab", None, ()), ("abcd", None, ())]
    assert fits[0].config.seed != fits[1].config.seed
    assert [night.served for night in nights] == [0.6, 0.7]


def test_the_gate_compares_with_the_night_that_serves_not_with_the_last_one(part, tmp_path: Path) -> None:
    nights, rng = part("nights"), np.random.default_rng(0)
    base = rng.uniform(0.5, 0.7, (8, 2))

    def exam(gain: float) -> dict[str, object]:
        return {"dice": (base + gain).tolist(), "calibration_error": 0.1}

    here = stage(part, tmp_path)
    assert nights.judged(here, [], exam(0), 0.6).promote
    done = [night(part, 1, exam=exam(0)), night(part, 2, promoted=False, exam=exam(-0.2))]
    worse, better = nights.judged(here, done, exam(-0.1), None), nights.judged(here, done, exam(0.1), None)
    assert (worse.promote, better.promote) == (False, True)
    assert better.champion == 1
    assert better.mean.difference == pytest.approx(0.1)
    assert better.patients == 8


def test_the_area_is_that_of_trapezoids_over_labels(part) -> None:
    area = part("stream_figures").area
    nights = [{"labels": 4, "served": 0.6}, {"labels": 6, "served": 0.8}, {"labels": 12, "served": 0.8}]
    assert area(nights) == pytest.approx((2 * 0.7 + 6 * 0.8) / 8)
    assert area(nights[:1]) == 0.6


def test_wilsons_interval_has_its_published_values(part) -> None:
    wilson = part("stream_figures").wilson
    assert wilson(0, 10) == pytest.approx([0.0, 0.2775], abs=1e-4)
    assert wilson(5, 10) == pytest.approx([0.2366, 0.7634], abs=1e-4)
    assert wilson(10, 10) == pytest.approx([0.7225, 1.0], abs=1e-4)
    assert wilson(0, 0) is None


def rows(served: list[float], made: list[float], promoted: list[bool], **more: float) -> list[dict[str, object]]:
    usual = {"train_s": 10.0, "judge_s": 1.0, "steps": 100, "first": None, **more}
    return [
        {"labels": number + 1, "served": s, "made": m, "promoted": p, **usual}
        for number, (s, m, p) in enumerate(zip(served, made, promoted, strict=True))
    ]


def test_what_lowered_and_what_was_rejected_is_counted_against_what_served_before(part) -> None:
    figures = part("stream_figures")
    one = rows([0.6, 0.7, 0.7, 0.65], [0.6, 0.7, 0.72, 0.65], [True, True, False, True])
    row = figures.row_of([one, one])
    assert row["promotions"]["of"] == 4  # the first model of a stream replaces nothing
    assert row["promotions"]["lowered"] == 2
    assert row["promotions"]["worst"] == pytest.approx(-0.05)
    assert (row["rejected"]["count"], row["rejected"]["better"]) == (2, 2)
    assert row["rejected"]["changes"] == pytest.approx([0.02, 0.02])
    assert (row["area"], row["made_area"]) == pytest.approx(((0.65 + 0.7 + 0.675) / 3, (0.65 + 0.71 + 0.685) / 3))
    assert (row["end"], row["made_end"]) == (0.65, 0.65)
    assert row["at_first_validation"]["of"] == 0
    assert (row["train_s"], row["steps"]) == (40.0, 400)
    dips = figures.row_of([rows([0.6, 0.7], [0.6, 0.7], [True, True], first=0.4)])["at_first_validation"]
    assert (dips["of"], dips["lowered"], dips["mean"]) == (1, 1, pytest.approx(-0.2))


def test_ways_are_compared_by_pairs_of_one_seed(part) -> None:
    figures, always = part("stream_figures"), [True, True]
    streams = {
        "recipe": [rows(v, v, always, train_s=3.0) for v in ([0.6, 0.70], [0.8, 0.92])],
        "monailabel": [rows(v, v, always) for v in ([0.4, 0.50], [0.6, 0.71])],
        "scratch": [rows(v, v, always) for v in ([0.6, 0.71], [0.8, 0.91])],
    }
    same = {way: ["a", "b"] for way in streams}
    found = figures.compared(streams, same)
    assert found["scratch"]["end"]["mean"] == pytest.approx(0.0)
    assert found["scratch"]["end"]["half_interval"] == pytest.approx(12.7062 * 0.01, rel=1e-4)
    assert found["scratch"]["cost"] == pytest.approx(0.3)
    assert found["monailabel"]["area"]["mean"] == pytest.approx((0.2 + 0.205) / 2)
    judged = figures.verdict(found)
    assert judged == {
        "end_within": True, "end_shown_within": False, "cost_within": True, "above_monailabel": True,
    }  # fmt: skip
    one = figures.verdict(figures.compared({way: found[:1] for way, found in streams.items()}, same))
    assert (one["end_within"], one["end_shown_within"], one["above_monailabel"]) == (False, None, None)


def test_seconds_of_different_machines_are_not_compared(part) -> None:
    figures, values, always = part("stream_figures"), [0.6, 0.7], [True, True]
    streams = {way: [rows(values, values, always)] * 3 for way in figures.NAMES}
    streams["recipe"] = [rows(values, values, always, train_s=s) for s in (5.0, 2.0, 7.0)]
    machines = {"recipe": ["b", "a", None], "monailabel": ["b", "b", "b"], "scratch": ["a", "a", None]}
    found = figures.compared(streams, machines)
    assert (found["scratch"]["cost"], found["scratch"]["cost_of"]) == (pytest.approx(0.2), 1)
    assert found["monailabel"]["cost_of"] == 1
    other = figures.compared(streams, {**machines, "scratch": ["a", "b", "b"]})
    assert (other["scratch"]["cost"], figures.verdict(other)["cost_within"]) == (None, None)
