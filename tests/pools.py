"""Pools of cases for the tests of selection."""

from collections.abc import Sequence

import numpy as np

from lib.selection.cases import Facts, Labelled
from lib.selection.pool import QUANTITIES, Pool
from lib.selection.ranking import Ranking
from lib.settings import load_settings

NAN = float("nan")
OPTIONS = load_settings(environ={}).selection


def facts(patients: str = "", sites: str = "", scanners: str = "", protocols: str = "") -> Facts:
    """Facts from words between spaces; "-" is unknown, and so is what is left out."""
    columns = [[word.strip("-") for word in text.split()] for text in (patients, sites, scanners, protocols)]
    count = max(map(len, columns))
    return Facts(*(tuple(column or [""] * count) for column in columns))


def line(positions: Sequence[float]) -> np.ndarray:
    """Embeddings (n, 2) on a line."""
    return np.array([[position, 0.0] for position in positions]).reshape(-1, 2)


def order_of(ranking: Ranking, pool: Pool) -> list[str]:
    """The ids as they are ranked."""
    return [pool.ids[i] for i in ranking.order]


def random_pool(seed: int, count: int = 12, labelled: int = 3, holes: float = 0.3) -> Pool:
    """A pool of three labels, four sites and two models, in which a share of everything is missing."""
    chance = np.random.default_rng(seed)

    def table(cases: int, columns: int) -> np.ndarray:
        values = chance.random((cases, columns)).round(1)  # rounded, so that there are ties
        return np.where(chance.random((cases, columns)) < holes, NAN, values)

    def some_facts(cases: int) -> Facts:
        words = [chance.choice(["", "a", "b", "c"], cases).tolist() for _ in range(4)]
        return Facts(*map(tuple, words))

    def embeddings(cases: int) -> np.ndarray:
        rows = chance.normal(size=(cases, 4)).round(1)
        rows[chance.random(cases) < holes] = NAN
        return rows

    return Pool.of(
        [f"case {i}" for i in chance.permutation(count)],
        ("a", "b", "never"),
        rare=("b",),
        quantities={name: table(count, 3) for name in QUANTITIES},
        volumes_ml=table(count, 3) * [1, 1, 0],
        presence=table(count, 3) * [1, 1, 0],
        embeddings=embeddings(count),
        versions=chance.integers(1, 3, count),
        facts=some_facts(count),
        labelled=Labelled.of(
            [f"labelled {i}" for i in range(labelled)],
            chance.random((labelled, 3)) < [0.9, 0.2, 0.0],
            embeddings(labelled),
            chance.integers(1, 3, labelled),
            some_facts(labelled),
        ),
    )
