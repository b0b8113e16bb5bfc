"""What is usual among the labelled cases, and what is not about another one, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lib.ledger.curationrows import CuratedCase
from lib.taskfile import Task
from lib.workflows.curate.cases import drawn_ml, predicted_ml

FACTS: Mapping[str, str] = {"site": "site", "scanner": "scanner of", "protocol": "protocol"}
FEWEST_VOLUMES = 5
"""Labelled cases that show a label, from which on their volumes say what is usual."""


@dataclass(frozen=True, slots=True)
class Usual:
    """Of the labelled cases.

    Attributes:
        facts: what there is of each of `FACTS`.
        volumes_ml: the smallest and the largest drawn volume of a label and of how many cases, by name; labels that
            fewer than `FEWEST_VOLUMES` show are missing.
    """

    facts: Mapping[str, frozenset[str]]
    volumes_ml: Mapping[str, tuple[float, float, int]]

    @classmethod
    def of(cls, labelled: Sequence[CuratedCase], task: Task) -> "Usual":
        """What these cases say."""
        volumes = {}
        for label in task.schema.names:
            drawn = [ml for case in labelled if case.drawn.get(label, 0) and (ml := drawn_ml(case, label)) > 0]
            if len(drawn) >= FEWEST_VOLUMES:
                volumes[label] = (min(drawn), max(drawn), len(drawn))
        return cls({name: frozenset(getattr(case, name) for case in labelled) for name in FACTS}, volumes)

    def strange(self, case: CuratedCase) -> tuple[str, ...]:
        """Where the case is from that no labelled one is, and predicted volumes that none of them has."""
        words = [
            f"no labelled case is of {word} {getattr(case, name)}"
            for name, word in FACTS.items()
            if getattr(case, name) and getattr(case, name) not in self.facts[name]
        ]
        for label, (least, most, count) in self.volumes_ml.items():
            volume = predicted_ml(case, label)
            if volume > 0 and not least <= volume <= most:
                words.append(
                    f"{label}: {volume:.3g} ml predicted, {least:.3g} to {most:.3g} ml in {count} labelled cases"
                )
        return tuple(words)
