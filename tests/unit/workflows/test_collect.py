import ast
import json
import shutil
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import Event

import numpy as np
import pytest

import lib
from lib.inference.model import Manifest, build_network, save_model
from lib.ledger.rows import NewHuman, NewSeries
from lib.workflows import retrain, retrain_fit
from lib.workflows.casecache import CaseCache
from lib.workflows.collect import (
    CalibrationCases,
    PoolCases,
    PromotionCases,
    Split,
    SplitCases,
    accepted_ids,
    collect,
)
from lib.workflows.plan import Plan, open_plan
from lib.workflows.recipe import START, learned_before
from lib.workflows.services import Services

Label = Callable[..., int]
SETS = (PoolCases, CalibrationCases, PromotionCases)


def patients_of(services: Services, ids: tuple[int, ...]) -> set[str]:
    rows = (services.ledger.annotations.get(number) for number in ids)
    return {services.ledger.series.get(row.series_uid).patient for row in rows}


def planned(services: Services) -> Plan:
    retrain.request_retrain(services, services.task(), {}, "tester")
    job = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert job is not None
    return open_plan(services, services.task(), job)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_arrives_no_patient_is_learned_from_and_judged_on(services: Services, label: Label, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label("p0", "pool")
    label("p1", "pool")
    for _ in range(12):  # the split that an arrival asks for counts only for a new patient
        label(f"p{rng.integers(6)}", rng.choice([split.value for split in Split]), empty=True)
    plan = planned(services)
    sets = [patients_of(services, ids) for ids in (plan.training, plan.calibration, plan.promotion)]
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert len(plan.training) + len(plan.calibration) + len(plan.promotion) == 14


def test_a_series_that_moved_to_a_promotion_patient_after_the_plan_is_not_learned(
    services: Services, label: Label
) -> None:
    ids = (label("p1"), label("p2"))
    assert accepted_ids(services, services.task(), PoolCases) == ids
    row = services.ledger.series.get(services.ledger.annotations.get(ids[1]).series_uid)
    services.ledger.series.assign_split("x", "promotion")
    moved = NewSeries(row.series_uid, row.study_uid, "x", "pool", "CT", "ball", row.instances)
    services.ledger.series.add(moved)
    cache = CaseCache(services, services.task())
    assert collect(services, cache, PoolCases, ids, lambda share, message: None).ids == ids[:1]
    assert accepted_ids(services, services.task(), PromotionCases) == ids[1:]


def move(services: Services, annotation: int, patient: str, split: str) -> str:
    """Register the series of an annotation for another patient; its UID."""
    row = services.ledger.series.get(services.ledger.annotations.get(annotation).series_uid)
    services.ledger.series.assign_split(patient, split)
    services.ledger.series.add(NewSeries(row.series_uid, row.study_uid, patient, "pool", "CT", "ball", row.instances))
    return row.series_uid


@pytest.mark.parametrize("held_out", [CalibrationCases, PromotionCases])
def test_a_series_that_a_version_learned_from_neither_tunes_nor_judges_under_any_label(
    services: Services, label: Label, tmp_path: Path, held_out: type[SplitCases]
) -> None:
    task, split = services.task(), held_out.split.value
    learned, relabelled, untouched = label("p1"), label("p2"), label("p3")
    manifest = Manifest.describe(task, 0, {}, (learned, relabelled))
    save_model(tmp_path / "m", manifest, build_network(task.network, task.schema).state_dict())
    services.registry.register(task.name, tmp_path / "m", {})
    own = label("x4", split)
    for number, annotation in enumerate((learned, relabelled, untouched)):
        series_uid = move(services, annotation, f"x{number}", split)
        if annotation == relabelled:
            newer = NewHuman(series_uid, task.name, "Ann", None, None, nothing_found=True)
            relabelled = services.ledger.annotations.add_human(newer, accept=True)
    ids = accepted_ids(services, task, held_out)
    assert set(ids) == {learned, relabelled, untouched, own}
    notes: list[str] = []
    found = collect(services, CaseCache(services, task), held_out, ids, lambda share, message: None, notes.append)
    assert set(found.ids) == {untouched, own}
    (note,) = notes
    assert note == (
        f"2 {held_out.called} cases are left out: a version learned from their series when they were another patient's "
        f"(annotations {learned}, {relabelled})"
    )


def test_what_a_deleted_version_learned_from_is_left_out_as_long_as_one_is_there_that_went_on_from_it(
    services: Services, label: Label, tmp_path: Path
) -> None:
    task, folder = services.task(), tmp_path / "m"
    first, second, third, untouched = (label(f"p{number}") for number in range(4))
    state = build_network(task.network, task.schema).state_dict()

    def add(learned: int, start: int | None) -> int:
        before = learned_before(services, task, start)
        save_model(folder, Manifest.describe(task, 0, {}, (learned,), inherited=before), state)
        tags = {} if start is None else {START: f"version {start}"}
        return services.registry.register(task.name, folder, {}, tags)

    save_model(folder, Manifest.describe(task, 0, {}, (first,)), state)
    path = folder / "manifest.json"
    old = json.loads(path.read_text())
    del old["inherited"]  # as manifests were
    path.write_text(json.dumps(old))
    oldest = services.registry.register(task.name, folder, {})
    middle = add(second, oldest)
    assert learned_before(services, task, middle) == (first, second)
    shutil.rmtree(services.registry.path(task.name, oldest))
    newest = add(third, middle)
    shutil.rmtree(services.registry.path(task.name, middle))
    for number, annotation in enumerate((first, second, third, untouched)):
        move(services, annotation, f"x{number}", "promotion")
    ids = accepted_ids(services, task, PromotionCases)
    cache = CaseCache(services, task)
    assert collect(services, cache, PromotionCases, ids, lambda share, message: None).ids == (untouched,)
    shutil.rmtree(services.registry.path(task.name, newest))
    assert collect(services, cache, PromotionCases, ids, lambda share, message: None).ids == ids


@pytest.mark.parametrize("asked", SETS)
def test_no_set_takes_cases_of_another_split(services: Services, label: Label, asked: type) -> None:
    ids = {split: label(f"{split}1", split.value) for split in Split}
    cache = CaseCache(services, services.task())
    found = collect(services, cache, asked, tuple(ids.values()), lambda share, message: None)
    assert isinstance(found, asked)
    assert found.ids == (ids[asked.split],)


def test_what_learns_and_what_tunes_take_no_other_type_than_theirs() -> None:
    names = {"PoolCases": PoolCases, "CalibrationCases": CalibrationCases}
    taken = typing.get_type_hints(retrain_fit.train_model, localns={"Manifest": object, "FitProgress": object} | names)
    assert taken["calibration"] is CalibrationCases
    assert "PromotionCases" not in Path(retrain_fit.__file__).read_text()


def test_only_the_plan_and_the_gate_know_of_promotion_patients() -> None:
    """Whoever else names that split, in whatever way, is found here, and who does not any more is taken off."""
    gate = {"workflows/judging.py", "workflows/anchors.py"}
    demo = {"demo/cohort.py", "cli/demo_upload.py"}  # which says whose cases its patients are
    export = {"cli/curate.py"}  # where they leave only when somebody names their split, and nothing learns
    named = {"workflows/collect.py", "workflows/plan.py", "workflows/retrain.py", *gate, *demo, *export}
    assert _found(_names_promotion) == {(path, True) for path in named}


def test_only_what_checks_a_word_of_a_person_takes_all_splits_at_once() -> None:
    words = {"workflows/curate/conditions.py", "workflows/curate/picking.py", "cli/curate.py"}
    assert _found(_takes_all_splits) == {(path, True) for path in {"workflows/collect.py", *words}}


def test_only_two_places_fit() -> None:
    places = {"workflows/retrain_fit.py", "workflows/executor/engine.py", "workflows/offline.py"}
    assert _found(_fits) == {(path, True) for path in places}  # engine: what it is handed; offline: no ledger


def test_labels_are_read_by_their_split_but_for_what_is_shown_and_kept() -> None:
    by_split = {
        ("workflows/collect.py", "of.split.value"),
        ("workflows/drawn.py", "split"),  # of pool and calibration
        ("workflows/due.py", "POOL"),
    }
    shown = {("server/describe.py", EVERY), ("server/labels.py", EVERY)}  # counts, and what is labelled, for clients
    whatever = {"workflows/gatecosts.py", "workflows/casecache.py"}  # golden series by their UIDs; whose files are kept
    assert _found(_splits_read) == by_split | shown | {(path, LISTED) for path in whatever}


@pytest.mark.parametrize(
    "source",
    [
        "from lib.workflows import collect\nids = accepted_ids(services, task, collect.PromotionCases)",
        "from lib.workflows.collect import PromotionCases as Some",
        "cases: 'type[PromotionCases]'",
        "of = getattr(collect, 'PromotionCases')",
        "split = Split.PROMOTION",
        "split = Split['PROMOTION']",
        "from lib.workflows.collect import Split as S\nsplit = S.PROMOTION.value",
        "rows = annotations.accepted(task, 'promotion')",
        "ids = plan.promotion",
    ],
)
def test_whatever_names_promotion_patients_is_found(source: str) -> None:
    assert any(_names_promotion(ast.parse(source)))


@pytest.mark.parametrize(
    ("source", "takes_all"),
    [
        ("for split in Split: pass", True),
        ("all = tuple(collect.Split)", True),
        ("S = Split", True),
        ("from lib.workflows.collect import Split as S", True),
        ("from lib.workflows.collect import Split\nsplit = Split.POOL.value", False),
        ("split = collect.Split.CALIBRATION", False),
    ],
)
def test_whatever_takes_all_splits_is_found(source: str, takes_all: bool) -> None:
    assert any(_takes_all_splits(ast.parse(source))) is takes_all


@pytest.mark.parametrize(
    ("source", "split"),
    [
        ("annotations.accepted(task.name)", "every split"),
        ("annotations.accepted(task=task.name)", "every split"),
        ("annotations.accepted(task.name, None)", "every split"),
        ("annotations.accepted(task.name, split=POOL)", "POOL"),
        ("annotations.accepted(*what)", "every split"),
        ("annotations.accepted(task.name, **what)", "every split"),
        ("read = annotations.accepted", "every split"),
        ("annotations.list(task.name, 'accepted')", "a list by status"),
        ("annotations.list(status='accepted')", "a list by status"),
    ],
)
def test_whatever_reads_labels_is_found_with_its_split(source: str, split: str) -> None:
    assert set(_splits_read(ast.parse(source))) == {split}


def test_a_stop_while_collecting_ends_it(services: Services, label: Label) -> None:
    stop = Event()
    stop.set()
    tell = retrain._stoppable(lambda share, message: None, stop)
    with pytest.raises(retrain.Stopped, match="fetching training case 1 of 1"):
        collect(services, CaseCache(services, services.task()), PoolCases, (label("p1"),), tell)


EVERY = "every split"
LISTED = "a list by status"
NAMES = ("PromotionCases", "PROMOTION")


def _found(look: Callable[[ast.AST], Iterator[object]]) -> set[tuple[str, object]]:
    """What a look at the source of each module of lib finds, with the module's path."""
    return {(path, found) for path, tree in _modules().items() for found in look(tree) if found}


@cache
def _modules() -> dict[str, ast.Module]:
    root = Path(lib.__file__).parent
    return {str(path.relative_to(root)): ast.parse(path.read_text()) for path in root.rglob("*.py")}


def _names_promotion(tree: ast.AST) -> Iterator[bool]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.alias(name=name):
                yield name in NAMES
            case ast.Attribute(attr=name):
                yield name in (*NAMES, "promotion")
            case ast.Constant(value=str(text)):
                yield text == "promotion" or any(name in text for name in NAMES)


def _takes_all_splits(tree: ast.AST) -> Iterator[bool]:
    """Whether the enumeration itself is used, not one of its members, or under a name by which it is not found."""
    members = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            yield node.name == "Split" and node.asname not in (None, "Split")
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield _name(node) == "Split" and id(node) not in members


def _fits(tree: ast.AST) -> Iterator[bool]:
    for node in ast.walk(tree):
        yield isinstance(node, ast.Call) and _name(node.func) == "fit"


def _splits_read(tree: ast.AST) -> Iterator[str]:
    """As the source says it, the split of whatever reads labels."""
    called = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called[id(node.func)] = node
            given = [*node.args, *(word.value for word in node.keywords)]
            if _name(node.func) == "list" and any(getattr(value, "value", "") == "accepted" for value in given):
                yield LISTED
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "accepted":
            yield _split_of(called.get(id(node)))


def _split_of(call: ast.Call | None) -> str:
    """The split of a call of `accepted`; what cannot be told, or only handed on, may be every one."""
    if call is None or any(isinstance(value, ast.Starred) for value in call.args):
        return EVERY
    named = [word.value for word in call.keywords if word.arg == "split"]
    (split,) = [*call.args[1:2], *named] or [ast.Constant(None)]
    return EVERY if isinstance(split, ast.Constant) and split.value is None else ast.unparse(split)


def _name(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))
