"""Estimated Dice, its interval, and what happens where nobody can know."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import InvalidInput, ManifestMismatch, NotFound
from lib.core.values import LabelEvidence
from lib.inference.quality import NOT_PREDICTED, QUALITY, UNFAMILIAR, QualityModel, load_quality, save_quality
from lib.inference.quality_conformal import bound, divided, patients_needed
from lib.inference.quality_features import FEATURES, Drawn, Plausible, features, plausible_volumes
from lib.inference.quality_fit import SPLIT_FROM, KnownCase, fit_quality
from lib.inference.quality_novelty import Neighbourhood
from lib.inference.quality_regression import fit_fractions, logistic

LABELS = ("liver", "spleen")
ORIGIN = "weights dropout"
USUAL_ML = {"liver": 1500.0, "spleen": 200.0}


def evidence_of(dice: float, rng: np.random.Generator, label: str = "liver") -> LabelEvidence:
    """What a mask of about that Dice shows."""
    agreement = float(np.clip(0.2 + 0.8 * dice + rng.normal(0, 0.03), 0.01, 0.999))
    return LabelEvidence(
        volume_ml=USUAL_ML[label] * float(np.exp(rng.normal(0, 0.3))),
        largest_probability=float(np.clip(0.9 + 0.1 * dice, 0, 0.999)),
        mean_probability=float(np.clip(0.5 + 0.45 * dice + rng.normal(0, 0.02), 0.4, 0.999)),
        boundary_entropy=float(0.6 - 0.3 * dice + rng.normal(0, 0.03)),
        components=int(1 + 5 * (1 - dice)),
        edge_share=0.0,
        samples_dice=agreement,
    )


def cohort(patients: int, seed: int, series: int = 1) -> list[KnownCase]:
    """Patients with a skill of their own, and so many series of each."""
    rng = np.random.default_rng(seed)
    found = []
    for patient in range(patients):
        skill = rng.beta(8, 2)
        for _ in range(series):
            dice = {name: float(np.clip(skill + rng.normal(0, 0.05), 0, 1)) for name in LABELS}
            evidence = {name: evidence_of(value, rng, name) for name, value in dice.items()}
            found.append(KnownCase(f"p{patient:03}", evidence, dice, rng.normal(0, 1, 3).astype(np.float32)))
    return found


def volumes(count: int = 20) -> dict[str, list[Drawn]]:
    """Of patients of whom no case is."""
    rng = np.random.default_rng(1)
    return {
        name: [Drawn(f"learned {number}", ml * float(np.exp(rng.normal(0, 0.3)))) for number in range(count)]
        for name, ml in USUAL_ML.items()
    }


@pytest.fixture(scope="module")
def model() -> QualityModel:
    return fit_quality(cohort(60, seed=0), LABELS, volumes(), ORIGIN)


def estimates(model: QualityModel, case: KnownCase) -> dict[str, tuple[float, float, float]]:
    return {n: (e.value, e.low, e.high) for n, e in model.estimate(case.evidence, case.embedding, ORIGIN).items()}


@pytest.mark.parametrize(("patients", "has_a_say"), [(SPLIT_FROM, False), (SPLIT_FROM - 1, True)])
def test_of_many_patients_the_half_that_is_held_out_makes_the_interval_and_no_estimate(
    patients: int, has_a_say: bool
) -> None:
    cases = cohort(patients, seed=3)
    held_out = cases[1::2]  # the order of their names
    rng = np.random.default_rng(0)
    others = [
        replace(one, dice={n: float(rng.uniform(0, 0.3)) for n in LABELS}, evidence={
            n: replace(found, boundary_entropy=3.0, components=9) for n, found in one.evidence.items()
        })
        for one in held_out
    ]  # fmt: skip
    first, second = (fit_quality([*cases[::2], *some], LABELS, volumes(), ORIGIN) for some in (held_out, others))
    for name in ("coefficients", "centre", "scale"):
        assert np.array_equal(getattr(first, name), getattr(second, name)) is not has_a_say, name
    assert np.median(second.scores.sizes) > 2 * np.median(first.scores.sizes)


@pytest.mark.parametrize(("count", "place"), [(9, 9), (10, 10), (19, 18), (20, 19), (99, 90)])
def test_a_bound_is_the_value_in_the_place_that_n_plus_1_gives(count: int, place: int) -> None:
    values = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    assert bound(values, np.arange(count), 0.9) == place


def test_fewer_than_nine_patients_bound_nothing_at_90_percent() -> None:
    assert patients_needed(0.9) == 9
    assert bound(np.arange(8.0), np.arange(8), 0.9) == inf
    assert bound(np.empty(0), np.empty(0, dtype=np.int64), 0.9) == inf


def test_a_patient_with_many_series_counts_once() -> None:
    values, patients = np.array([*range(1, 11), *[100.0] * 40]), np.array([*range(10), *[10] * 40])
    assert bound(values, patients, 0.8) == 10  # 9 of 12 weights are not enough, the tenth is
    assert bound(values, np.arange(50), 0.8) == 100
    doubled = np.repeat(values[:10], 3), np.repeat(patients[:10], 3)
    assert bound(*doubled, 0.8) == bound(values[:10], patients[:10], 0.8) == 9


def test_a_bound_covers_new_patients_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(12), 4)
    within = []
    for _ in range(1500):
        scores = np.repeat(rng.normal(size=13), 4) + rng.normal(size=52)
        within.append(scores[-1] <= bound(scores[:48], owners, 0.9))
    assert 0.88 <= np.mean(within) <= 0.97


def test_everybody_is_held_out_once_when_few_and_half_of_many() -> None:
    few = divided(range(25), 10, 200)
    assert sorted(patient for _, held_out in few for patient in held_out) == list(range(25))
    assert all(not learned & held_out and len(learned | held_out) == 25 for learned, held_out in few)
    ((learned, held_out),) = divided(range(200), 10, 200)
    assert (len(learned), len(held_out), learned & held_out) == (100, 100, frozenset())
    assert divided([4], 10, 200) == []


def test_fractions_without_penalty_have_the_mean_that_was_seen() -> None:
    design = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    wanted = np.array([0.0, 0.5, 0.8, 1.0])
    found = logistic(design @ fit_fractions(design, wanted, np.ones(4), 1e-9))
    np.testing.assert_allclose(found, [0.25, 0.25, 0.9, 0.9], atol=1e-4)
    shrunk = logistic(design @ fit_fractions(design, wanted, np.ones(4), 1e6))
    np.testing.assert_allclose(shrunk, 0.575, atol=1e-4)


def test_fractions_of_0_and_1_alone_have_finite_coefficients() -> None:
    design = np.array([[1.0, -1.0], [1.0, 1.0]])
    assert np.isfinite(fit_fractions(design, np.array([0.0, 1.0]), np.ones(2), 0.3)).all()
    assert logistic(design[:1] @ fit_fractions(design[:1], np.ones(1), np.ones(1), 1.0))[0] > 0.99


def test_a_volume_is_told_in_standard_deviations_of_the_annotated_ones() -> None:
    liver = [Drawn("a", 1.0), Drawn("b", np.e**1), Drawn("c", np.e**2)]
    usual = plausible_volumes({"liver": liver, "spleen": [Drawn("a", 5.0)], "aorta": [Drawn("a", 0.0)]})
    assert usual["liver"] == Plausible(pytest.approx(1.0), pytest.approx(1.0))
    assert usual["liver"].oddness(np.e**3) == pytest.approx(2.0)
    assert usual["liver"].oddness(1e-9) == -6.0
    assert set(usual) == {"liver", "spleen"}
    assert plausible_volumes({"liver": liver, "spleen": [Drawn("a", 5.0)]}, without="a") == {
        "liver": Plausible(pytest.approx(1.5), pytest.approx(0.4))
    }


def test_a_case_is_held_against_what_was_drawn_of_other_patients_alone() -> None:
    """Its own volume among the usual ones would make a strange mask look plausible while the model is fitted."""
    (case,) = cohort(1, seed=0)
    swollen = replace(case.evidence["liver"], volume_ml=USUAL_ML["liver"] * 1e4)
    odd, usual = replace(case, evidence={"liver": swollen}), volumes()
    with_own = {**usual, "liver": [*usual["liver"], *[Drawn(case.patient, swollen.volume_ml)] * 50]}
    plain, fitted = (fit_quality([odd], LABELS, drawn, ORIGIN) for drawn in (usual, with_own))
    column = FEATURES.index("largeness")
    assert (plain.centre[column], fitted.centre[column]) == (6.0, 6.0)
    assert fitted.plausible["liver"].log_ml > plain.plausible["liver"].log_ml + 1  # for new patients it counts


def test_features_are_nan_only_where_nothing_is_known() -> None:
    row = features(LabelEvidence(np.e, 0.5, mean_probability=0.5, components=1), Plausible(0.0, 0.5))
    expected = dict(zip(FEATURES, row.tolist(), strict=True))
    assert {name for name, value in expected.items() if isnan(value)} == {"agreement", "boundary"}
    assert (expected["certainty"], expected["largeness"], expected["smallness"]) == (0.0, 2.0, 0.0)


def test_estimates_are_near_and_their_intervals_hold_the_dice_of_new_patients(model: QualityModel) -> None:
    off, inside = [], []
    for case in cohort(150, seed=7):
        for name, (value, low, high) in estimates(model, case).items():
            off.append(abs(value - case.dice[name]))  # type: ignore[operator]
            inside.append(low <= case.dice[name] <= high)  # type: ignore[operator]
            assert 0 <= low <= value <= high <= 1
    assert np.mean(off) < 0.05
    assert 0.85 <= np.mean(inside) <= 0.98


def test_samples_that_agree_less_lower_the_estimate(model: QualityModel) -> None:
    case = cohort(1, seed=3)[0]

    def value(agreement: float) -> float:
        evidence = {"liver": replace(case.evidence["liver"], samples_dice=agreement)}
        return model.estimate(evidence, case.embedding, ORIGIN)["liver"].value

    values = [value(agreement) for agreement in (0.95, 0.8, 0.6, 0.3)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.04


def test_a_patient_with_many_series_does_not_draw_the_estimates_to_himself() -> None:
    fair = cohort(20, seed=0)
    bad = [replace(case, dice=dict.fromkeys(LABELS, 0.1)) for case in cohort(1, seed=5, series=200)]
    crowd = [replace(case, patient="crowd") for case in bad]
    asked = cohort(1, seed=9)[0]
    alone = estimates(fit_quality([*fair, crowd[0]], LABELS, volumes(), ORIGIN), asked)["liver"][0]
    crowded = estimates(fit_quality([*fair, *crowd], LABELS, volumes(), ORIGIN), asked)["liver"][0]
    assert crowded == pytest.approx(alone, abs=0.1)


def test_a_label_that_is_predicted_nowhere_has_no_estimate_and_says_why(model: QualityModel) -> None:
    evidence = {"liver": LabelEvidence(volume_ml=0.0, largest_probability=0.4)}
    found = model.estimate(evidence, np.zeros(3, dtype=np.float32), ORIGIN)
    assert [(isnan(one.value), one.reason) for one in found.values()] == [(True, NOT_PREDICTED)] * 2
    assert found["liver"].told() == {
        "value": None, "low": None, "high": None, "is_familiar": True, "reason": NOT_PREDICTED
    }  # fmt: skip


def test_evidence_of_another_version_is_refused(model: QualityModel) -> None:
    with pytest.raises(ManifestMismatch, match=r"by weights dropout, got one by others"):
        model.estimate({}, np.zeros(3, dtype=np.float32), "others")


@pytest.mark.parametrize(
    "changed",
    [{"samples_dice": nan}, {"boundary_entropy": 3.0}, {"volume_ml": 0.01, "components": 200}],
    ids=["without samples", "blurred", "in pieces"],
)
def test_a_mask_unlike_all_others_is_told_without_numbers(model: QualityModel, changed: dict[str, float]) -> None:
    case = cohort(1, seed=3)[0]
    evidence = {"liver": replace(case.evidence["liver"], **changed), "spleen": case.evidence["spleen"]}
    found = model.estimate(evidence, np.zeros(3, dtype=np.float32), ORIGIN)
    assert found["spleen"].is_familiar
    assert np.isfinite(found["liver"].value)
    told = found["liver"].told()
    assert (told["value"], told["is_familiar"], told["reason"]) == (None, False, UNFAMILIAR)


@pytest.mark.parametrize("embedding", [[50.0, 0, 0], [nan, 0, 0], [0.0, 0]])
def test_an_image_unlike_all_others_makes_every_label_unfamiliar(model: QualityModel, embedding: list[float]) -> None:
    case = cohort(1, seed=3)[0]
    found = model.estimate(case.evidence, np.array(embedding, dtype=np.float32), ORIGIN)
    assert not any(one.is_familiar for one in found.values())


def test_most_new_patients_are_familiar(model: QualityModel) -> None:
    found = [model.estimate(case.evidence, case.embedding, ORIGIN)["liver"] for case in cohort(100, seed=11)]
    assert np.mean([one.is_familiar for one in found]) > 0.85


def test_a_label_without_a_calibration_case_is_not_familiar() -> None:
    cases = [replace(case, dice={"liver": case.dice["liver"]}) for case in cohort(12, seed=0)]
    found = fit_quality(cases, LABELS, volumes(), ORIGIN).estimate(
        cases[0].evidence, np.zeros(3, dtype=np.float32), ORIGIN
    )
    assert (found["liver"].is_familiar, found["spleen"].is_familiar) == (True, False)


def test_with_few_patients_there_is_an_estimate_and_no_interval() -> None:
    few = fit_quality(cohort(5, seed=0, series=10), LABELS, volumes(), ORIGIN)
    case = cohort(5, seed=0, series=10)[3]
    found = few.estimate(case.evidence, case.embedding, ORIGIN)["liver"]
    assert 0 < found.value < 1
    assert isnan(found.low)
    assert isnan(found.high)
    assert found.reason == "no interval: 5 calibration patients, 9 are needed"


def test_a_single_case_gives_a_guess_that_nobody_sees() -> None:
    (case,) = cohort(1, seed=0)
    found = fit_quality([case], LABELS, volumes(), ORIGIN).estimate(case.evidence, case.embedding, ORIGIN)["liver"]
    assert found.value == pytest.approx(np.mean(list(case.dice.values())), abs=0.15)  # type: ignore[arg-type]
    assert (found.is_familiar, isnan(found.low)) == (False, True)


def test_without_a_pair_to_learn_from_the_fit_says_what_is_missing() -> None:
    nothing = [replace(case, dice=dict.fromkeys(LABELS)) for case in cohort(3, seed=0)]
    with pytest.raises(InvalidInput, match=r"at least one calibration case with a predicted label, got none in 3"):
        fit_quality(nothing, LABELS, volumes(), ORIGIN)


def test_embeddings_of_two_widths_are_refused() -> None:
    first, second = cohort(2, seed=0)
    with pytest.raises(InvalidInput, match=r"one width, got widths \[2, 3\]"):
        fit_quality([first, replace(second, embedding=second.embedding[:2])], LABELS, volumes(), ORIGIN)


def test_a_feature_that_calibration_never_had_is_not_asked_for() -> None:
    cases = [
        replace(case, evidence={n: replace(e, samples_dice=nan) for n, e in case.evidence.items()})
        for case in cohort(30, seed=0)
    ]
    case = cases[4]
    found = fit_quality(cases, LABELS, volumes(), ORIGIN).estimate(case.evidence, case.embedding, ORIGIN)["liver"]
    assert found.is_familiar
    assert found.value == pytest.approx(case.dice["liver"], abs=0.1)


def test_a_model_comes_back_from_its_file_as_it_was(tmp_path: Path, model: QualityModel) -> None:
    save_quality(tmp_path, model)
    again = load_quality(tmp_path)
    for case in cohort(5, seed=2):
        before, after = (one.estimate(case.evidence, case.embedding, ORIGIN) for one in (model, again))
        assert before == after
    assert again.patients == model.patients == 60
    assert [path.name for path in tmp_path.iterdir()] == [QUALITY]


def test_a_model_without_interval_comes_back_too(tmp_path: Path) -> None:
    (case,) = cohort(1, seed=0)
    save_quality(tmp_path, fit_quality([case], LABELS, volumes(), ORIGIN))
    assert not load_quality(tmp_path).estimate(case.evidence, case.embedding, ORIGIN)["liver"].is_familiar


def _drop(values: dict, key: str) -> None:
    del values[key]


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.update(format=99),
        lambda values: values.update(features=["other"]),
        lambda values: values.update(coefficients=[[1.0]]),
        lambda values: values["scores"].update(folds=[]),
        lambda values: values["scores"].update(folds=[70] * len(values["scores"]["folds"])),
        lambda values: values["images"].update(points=[[1.0, 2.0]]),
        lambda values: _drop(values, "masks"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, model: QualityModel, damage: Callable[[dict], None]) -> None:
    values = json.loads(json.dumps(model.to_dict()))
    damage(values)
    (tmp_path / QUALITY).write_text(json.dumps(values))
    with pytest.raises(ManifestMismatch, match="fit again"):
        load_quality(tmp_path)


def test_no_file_and_no_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no quality\.json"):
        load_quality(tmp_path)
    (tmp_path / QUALITY).write_text("{")
    with pytest.raises(ManifestMismatch, match="no valid JSON"):
        load_quality(tmp_path)


def test_familiar_is_what_lies_as_near_as_others_lie_to_each_other() -> None:
    points = np.arange(50.0)[:, None]
    place = Neighbourhood.of(points, np.arange(50), 0.9)
    assert place.reach == pytest.approx(1 / points.std(), rel=1e-4)
    assert [place.includes(np.array([x])) for x in (-0.9, 10.5, 49.9, 51.1, -2.0)] == [True, True, True, False, False]


def test_points_of_one_patient_are_no_neighbours_of_his_own() -> None:
    points = np.array([[0.0], [0.1], [5.0], [5.1]])
    assert Neighbourhood.of(points, np.array([0, 0, 1, 1]), 0.9).reach * points.std() == pytest.approx(5.0, rel=1e-3)
