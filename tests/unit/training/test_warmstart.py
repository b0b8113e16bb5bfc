from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.errors import InvalidInput
from lib.core.labels import LabelSchema
from lib.inference.config import PreprocessConfig
from lib.inference.model import build_network
from lib.networks.config import NetworkConfig
from lib.training.config import FitConfig
from lib.training.fit import fit
from lib.training.sampling import Sampler
from lib.training.warmstart import half_new, shrink_and_perturb, warm_start

NETWORK = NetworkConfig(size="tiny", context_slices=0)


def test_weights_norms_and_biases_move_towards_fresh_ones_and_statistics_stay() -> None:
    champion = {"w": torch.tensor([4.0]), "norm": torch.tensor([3.0]), "mean": torch.tensor([7.0])}
    fresh = {"w": torch.tensor([-1.0]), "norm": torch.tensor([1.0]), "mean": torch.tensor([0.0])}
    mixed = shrink_and_perturb(champion, fresh, ("w", "norm"), 0.6)
    assert {name: value.item() for name, value in mixed.items()} == pytest.approx({"w": 2.0, "norm": 2.2, "mean": 7.0})
    assert champion["w"].item() == 4.0
    assert mixed["mean"] is not champion["mean"]


def test_a_share_of_one_is_the_champion_and_of_none_the_fresh_network(schema: LabelSchema) -> None:
    torch.manual_seed(5)
    champion = build_network(NETWORK, schema).state_dict()
    torch.manual_seed(9)
    fresh = build_network(NETWORK, schema)
    learned = {name for name, _ in fresh.named_parameters()}
    same, none = (warm_start(champion, NETWORK, schema, 9, keep) for keep in (1.0, 0.0))
    assert all(torch.equal(same[name], value) for name, value in champion.items())
    assert all(torch.equal(none[name], fresh.state_dict()[name]) for name in learned)


def test_a_start_follows_from_its_seed_and_draws_nothing_from_the_common_source(schema: LabelSchema) -> None:
    champion = build_network(NETWORK, schema).state_dict()
    before = torch.random.get_rng_state()
    first, again, other = (warm_start(champion, NETWORK, schema, seed, 0.5) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_champion_of_another_network_and_a_wrong_share_are_refused() -> None:
    one, two = {"w": torch.zeros(2)}, {"w": torch.zeros(3)}
    with pytest.raises(InvalidInput, match=r"differ in \['w'\]"):
        shrink_and_perturb(one, two, ("w",), 0.5)
    with pytest.raises(InvalidInput, match=r"from 0 to 1, got 1\.5"):
        shrink_and_perturb(one, one, ("w",), 1.5)


def test_new_cases_make_up_their_share_of_the_weights() -> None:
    assert half_new([True, False, False, False, False], 0.5) == pytest.approx((0.5, 0.125, 0.125, 0.125, 0.125))
    assert half_new([True, True], 0.5) is None
    assert half_new([False, False], 0.5) is None
    assert half_new([], 0.5) is None


def test_half_of_the_pictures_are_of_new_cases_while_labels_keep_their_shares() -> None:
    cases = [np.zeros((4, 8, 8), np.uint8) for _ in range(9)]
    for case in cases:
        case[1:3, 2:5, 2:5] = 1
    for case in (cases[0], cases[4]):
        case[0, 6, 6] = 2
    weights = half_new([number < 1 for number in range(9)], 0.5)
    sampler = Sampler(cases, 3, (1, 4, 4), True, weights)
    picks = sampler.draw(np.random.default_rng(0), 2000, 0.0, 1.0)
    assert sum(pick.case == 0 for pick in picks) / 2000 == pytest.approx(0.5, abs=0.04)
    picks = sampler.draw(np.random.default_rng(1), 2000, 1.0, 1.0)
    drawn = Counter(pick.case for pick in picks)
    rare = 0.5 * 0.5 / (0.5 + 0.0625)  # half of the draws are of the rare label, of which the new case shows one of two
    assert drawn[0] / 2000 == pytest.approx(rare + 0.5 * 0.5, abs=0.04)
    assert set(drawn) == set(range(9))


def test_weights_that_are_none_are_refused() -> None:
    for weights in ([1.0, 0.0], [1.0], [1.0, float("nan")]):
        with pytest.raises(InvalidInput, match="as many weights above 0"):
            Sampler([np.ones((1, 4, 4), np.uint8)] * 2, 2, (1, 4, 4), True, weights)


def test_a_fit_with_other_weights_is_another_run(make_case, tmp_path: Path) -> None:
    cases, config = [make_case(1), make_case(2)], FitConfig(steps=2, batch_size=2)
    found = [
        fit(
            cases, [], NETWORK, PreprocessConfig(window_hu=None), config, tmp_path / str(number), "cpu", weights=weights
        )
        for number, weights in enumerate((None, (0.5, 0.5), (0.99, 0.01)))
    ]
    assert found[1].losses != found[2].losses
