"""The choice of a simulated round: what a model says of the pool becomes the ledger's rows, the product ranks them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib.core.values import MaskArray, Prediction
from lib.inference.predictor import Predictor
from lib.ledger.queuerows import Candidate, LabelledCase, LabelScores
from lib.selection.pool import QUANTITIES
from lib.selection.ranking import Ranking
from lib.selection.strategies import STRATEGIES
from lib.training.data import Case
from lib.workflows.casepool import Moment, pool_of
from lib.workflows.collect import Split
from lib.workflows.config import QueryConfig
from lib.workflows.lineup import line_up
from selection_game import Choice, Game
from selection_presets import OURS


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says of a case.

    Attributes:
        scores: by label name.
        vector: its embedding, as the ledger keeps it.
        draft: (S, R, C) label ids.
    """

    scores: Mapping[str, LabelScores]
    vector: bytes
    draft: MaskArray


def choose(
    game: Game, predictor: Predictor, version: int, names: Sequence[str], strategies: Sequence[str]
) -> dict[str, Choice]:
    """What each strategy chooses next, the model having that version; the pool is predicted only if one asks for it."""
    pool = {case.name: case for case in game.material.pool}
    seen: dict[str, Said] = {}
    if any(STRATEGIES[name].by_model for name in strategies):
        seen = {name: said(predictor.predict(case.volume)) for name, case in pool.items()}
    found = {}
    for strategy in strategies:
        places = queued(game, version, seen, set(names), strategy)[: game.per_round]
        for name, _ in places:
            if name not in seen:
                seen[name] = said(predictor.predict(pool[name].volume))
        wrong = sum(int((seen[name].draft != pool[name].mask.array).sum()) for name, _ in places)
        found[strategy] = Choice(tuple(name for name, _ in places), tuple(why for _, why in places), wrong)
    return found


def queued(
    game: Game, version: int, seen: Mapping[str, Said], labelled: set[str], strategy: str
) -> list[tuple[str, str]]:
    """The queue of a strategy by the product's code: (name, why) of each case."""
    rows = [candidate(game, case, version, seen.get(case.name)) for case in game.material.pool]
    known = [labelled_case(game, case, seen.get(case.name)) for case in game.find(sorted(labelled))]
    moment = Moment(champion=version, compared=version)

    def rank(cases: Sequence[Candidate], seed: int) -> Ranking:
        chosen = STRATEGIES[strategy]
        pool = pool_of(game.task, cases, known, moment, with_values=chosen.by_model)
        return chosen(pool, seed, game.settings.selection)

    free = [row for row in rows if row.series_uid not in labelled]
    lines = line_up(free, strategy, rank, query_of(game, strategy), turn=len(labelled) - game.start)
    return [(uid, why) for uid, _, why in lines.places]


def query_of(game: Game, strategy: str) -> QueryConfig:
    """The queue's options: no patients are held out of the pool, and the default alone pays for its random lane."""
    query = game.settings.query
    lane = query.random_share if strategy == OURS else 0.0
    return replace(query, seed=game.seed, held_out_share=0.0, random_share=lane)


def said(prediction: Prediction) -> Said:
    """What the ledger would keep of a prediction."""
    scores = {
        label: LabelScores(
            **{name: prediction.quantities[name][label] for name in QUANTITIES if name in prediction.quantities},
            volume_ml=shown.volume_ml,
            largest_probability=shown.largest_probability,
        )
        for label, shown in prediction.evidence.items()
    }
    return Said(scores, prediction.embedding.astype("<f4").tobytes(), np.asarray(prediction.mask.array))


def candidate(game: Game, case: Case, version: int, shown: Said | None) -> Candidate:
    """A case of the pool as a row of the ledger."""
    site = game.material.sites[case.name]
    if shown is None:
        return Candidate(case.name, Split.POOL.value, {}, None, case.patient, site)
    return Candidate(case.name, Split.POOL.value, shown.scores, version, case.patient, site, vector=shown.vector)


def labelled_case(game: Game, case: Case, shown: Said | None) -> LabelledCase:
    """A labelled case as a row of the ledger."""
    labels = frozenset(label.name for label in game.task.schema if (case.mask.array == label.id).any())
    vector = b"" if shown is None else shown.vector
    return LabelledCase(case.name, labels, vector, case.patient, game.material.sites[case.name], "", "")
