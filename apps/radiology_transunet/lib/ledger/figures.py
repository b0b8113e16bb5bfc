"""Figures of model versions on promotion cases, kept so that a version that served needs no second look at them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import sqlalchemy as sa

from lib.ledger import tables
from lib.ledger.book import Book, insert_all_new

F = tables.case_figures
CHUNK = 500

Dice = Mapping[str, float | None]
Value = TypeVar("Value")


class Figures(Book):
    """`ledger.figures`; a model is named by the folder of its weights, which no other one ever has."""

    __slots__ = ()

    def keep(self, model: str, dice: Mapping[int, Dice]) -> None:
        """Keep the Dice of a model by annotation, then by label; newer figures replace older ones.

        Args:
            model: its name.
            dice: in [0, 1]; None where neither annotation nor prediction shows the label. Annotations that the ledger
                does not know any more are passed over.
        """
        with self._write() as connection:
            for part in _parts(sorted(dice)):
                mine = sa.and_(F.c.model == model, F.c.annotation_id.in_(part))
                connection.execute(sa.delete(F).where(mine))
                known = sa.select(tables.annotations.c.id).where(tables.annotations.c.id.in_(part))
                rows = [
                    {"model": model, "annotation_id": one, "dice": dice[one]} for (one,) in connection.execute(known)
                ]
                insert_all_new(connection, F, rows)  # a second process that keeps the same is right as well

    def of(self, models: Collection[str]) -> dict[str, dict[int, Dice]]:
        """What is kept of some models: by model, then by annotation."""
        found: dict[str, dict[int, Dice]] = {model: {} for model in models}
        with self._read() as connection:
            for part in _parts(sorted(found)):
                query = sa.select(F.c.model, F.c.annotation_id, F.c.dice).where(F.c.model.in_(part))
                for model, annotation_id, dice in connection.execute(query):
                    found[model][annotation_id] = dice
        return found


def _parts(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
