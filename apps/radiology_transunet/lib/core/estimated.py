"""How good a label of a prediction probably is, as a value that a model tells, the ledger keeps and pages show."""

from dataclasses import dataclass
from math import isfinite, nan


@dataclass(frozen=True, slots=True)
class EstimatedDice:
    """What the Dice of one label probably is; NaN stands for what nobody knows.

    Attributes:
        value: in [0, 1]; of what is not familiar it is a guess that is not to be shown.
        low: end of the interval that is made to hold the Dice of 90 % of new patients; `quality.LEVEL` says what is
            proven of it.
        high: its other end.
        is_familiar: whether the model was calibrated on such images and such masks.
        reason: why a number is missing or not to be trusted, in words; "" = it is all there.
    """

    value: float
    low: float
    high: float
    is_familiar: bool
    reason: str = ""

    def told(self) -> dict[str, float | bool | str | None]:
        """For people and other software: no number where it is not to be trusted."""
        names = ("value", "low", "high")
        shown = {name: getattr(self, name) if self.is_familiar else nan for name in names}
        numbers = {name: round(number, 3) if isfinite(number) else None for name, number in shown.items()}
        return {**numbers, "is_familiar": self.is_familiar, "reason": self.reason}
