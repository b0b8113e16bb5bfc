"""The gate: may a challenger replace the champion? Pure; figures in, verdict and reason out.

It promotes only what has shown three things on the promotion patients, by bootstrap over patients:

- no label is worse than the champion's by more than the margin. All labels have to show it (an intersection-union test,
  Berger 1982), so each is tested at the full error rate alpha and the whole errs with at most alpha: no correction is
  needed.
- no label is worse by more than the margin than that of the version which had it best of those that served before: one
  more part of the same intersection. Each step may lose a little in a label; without this anchor the losses of many
  steps would add up.
- the mean over the common labels gains, or the mean on the newest cases does. One of both is enough (a union), so each
  is tested at alpha / 2 (Bonferroni) where there are enough newest patients; else the mean alone at alpha.

Without the gain, losses within the margin would pass night after night. For the same reason a gain on the newest cases
does not pass with a mean that was seen to fall.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lib.workflows.comparison import MEAN_OF, NEWEST_OF, Comparison, anchor_intervals, label_intervals, mean_interval
from lib.workflows.config import GateConfig
from lib.workflows.paired import Interval

ROUNDING = 1e-9
"""Differences of Dice below this come from binary fractions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says.

    Attributes:
        promote: whether the challenger serves from now on.
        reason: in words, with the figures.
        champion: version that it was compared with; None without one.
        patients: promotion patients that both were measured on.
        missing: how many more would be needed to decide; 0 where it was decided.
        labels: differences by label, with the bounds at `alpha`.
        mean: difference of the mean over the common labels.
        newest: the same on the newest cases; None where there are too few of them.
        calibration_error: expected one of champion and challenger, in [0, 1].
        seconds: that a case takes champion and challenger.
        golden: by golden case, the largest loss of Dice of a label, or why it was not measured.
        margin: Dice that a label might lack.
        alpha: error rate of the whole verdict; the gains are bounded at half of it where `newest` is there.
        anchored: differences by label from the version that had it best of those that served before the champion.
    """

    promote: bool
    reason: str
    champion: int | None = None
    patients: int = 0
    missing: int = 0
    labels: tuple[Interval, ...] = ()
    mean: Interval | None = None
    newest: Interval | None = None
    calibration_error: tuple[float | None, float | None] = (None, None)
    seconds: tuple[float | None, float | None] = (None, None)
    golden: Mapping[str, float | str] = field(default_factory=dict)
    margin: float | None = None
    alpha: float | None = None
    anchored: tuple[Interval, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Verdict":
        """The verdict of its plain values."""
        gains = {name: Interval(**values[name]) for name in ("mean", "newest") if values[name] is not None}
        pairs = {name: tuple(values[name]) for name in ("calibration_error", "seconds")}
        rows = {name: tuple(Interval(**row) for row in values.get(name, ())) for name in ("labels", "anchored")}
        return cls(**{**values, **gains, **pairs, **rows})


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that the gate asks for besides Dice on the promotion patients.

    Attributes:
        what: it is about.
        measured: in words.
        allowed: in words.
        holds: whether the challenger keeps to it.
    """

    what: str
    measured: str
    allowed: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Champion:
    """Who has to be matched.

    Attributes:
        version: of the champion; None when not even that can be read.
        dice: its mean Dice on the same cases as the challenger's; None when there are no cases.
        misfit: why it cannot serve the task any more; empty when it can.
    """

    version: int | None
    dice: float | None
    misfit: str = ""


def weigh(of: Comparison, config: GateConfig) -> Verdict:
    """Promote a challenger that is shown to gain and not to lose.

    Args:
        of: both models on the promotion patients.
        config: what has to be shown.
    """
    draws = config.resamples, config.seed
    labels = label_intervals(of, -config.margin, config.alpha, *draws)
    anchored = anchor_intervals(of, -config.margin, config.alpha, *draws)
    newest = _enough(of.only_newest(), config)
    alpha = config.alpha if newest is None else config.alpha / 2
    mean = mean_interval(of, MEAN_OF, alpha, *draws)
    on_newest = None if newest is None else mean_interval(newest, NEWEST_OF, alpha, *draws)
    missing, doubts = _doubts(of, config, (labels, anchored), mean, on_newest)
    return Verdict(
        promote=not doubts,
        reason=_reason(of, doubts, mean, on_newest, missing),
        champion=of.version,
        patients=of.distinct_patients,
        missing=missing,
        labels=labels,
        mean=mean,
        newest=on_newest,
        calibration_error=of.calibration_error,
        seconds=of.seconds,
        golden=dict(of.golden),
        margin=config.margin,
        alpha=config.alpha,
        anchored=anchored,
    )


def unopposed(champion: Champion | None, challenger_dice: float | None, cases: int) -> Verdict:
    """The verdict where nobody is to be compared with: a first model, or a champion that cannot serve.

    Args:
        champion: who serves now; None when nobody does.
        challenger_dice: mean Dice on the calibration cases, in [0, 1]; None without cases.
        cases: number of calibration cases.
    """
    if champion is not None:
        return Verdict(True, f"the champion cannot serve any more: {champion.misfit}", champion.version)
    return Verdict(True, f"the first model of this task; mean Dice {_shown(challenger_dice)} on {cases} cases")


def judge(challenger_dice: float | None, champion: Champion | None, tolerance: float, cases: int) -> Verdict:
    """Promote a challenger whose mean Dice is not lower by more than the tolerance; where there is no promotion set.

    Args:
        challenger_dice: mean Dice on the calibration cases, in [0, 1]; None without cases.
        champion: who serves now; None when nobody does.
        tolerance: Dice that the challenger may lack.
        cases: number of calibration cases that both were measured on.
    """
    if champion is None or champion.misfit:
        return unopposed(champion, challenger_dice, cases)
    if challenger_dice is None or champion.dice is None:
        return Verdict(False, "no accepted label of a calibration patient: nothing shows that it is not worse")
    figures = (
        f"mean Dice {_shown(challenger_dice)} against {_shown(champion.dice)} of version {champion.version} "
        f"on {cases} calibration cases, tolerance {tolerance:g}"
    )
    if challenger_dice >= champion.dice - tolerance - ROUNDING:
        return Verdict(True, f"not worse: {figures}", champion.version)
    return Verdict(False, f"worse: {figures}", champion.version)


def _enough(newest: Comparison | None, config: GateConfig) -> Comparison | None:
    """The newest cases, where there are patients enough to tell something."""
    return newest if newest is not None and newest.distinct_patients >= config.min_patients else None


def _doubts(
    of: Comparison,
    config: GateConfig,
    not_worse: tuple[tuple[Interval, ...], tuple[Interval, ...]],
    mean: Interval,
    newest: Interval | None,
) -> tuple[int, tuple[str, ...]]:
    """How many patients are missing, and what speaks against the challenger."""
    labels, anchored = not_worse
    scarce = [label for label in labels if label.patients < config.min_patients]
    if scarce or not labels:
        missing = config.min_patients - min((label.patients for label in scarce), default=0)
        there = ", ".join(f"{label.name} {label.patients}" for label in scarce)
        return missing, (f"too few promotion patients show each label ({there} of {config.min_patients})",)
    unsure = [label for label in (*labels, *anchored) if not label.holds]
    wide = [label.needed - label.patients for label in unsure if label.needed is not None]
    doubts = [f"{_in_words(label)} is not shown to lack at most {config.margin:g}{_of_whom(label)}" for label in unsure]
    if not (mean.holds or _gains_on_newest(mean, newest)):
        doubts.append(f"no gain is shown: {'; '.join(_in_words(gain) for gain in (mean, newest) if gain is not None)}")
    asked = conditions(of.calibration_error, of.seconds, of.golden, config)
    doubts += [f"{each.what} {each.measured}, allowed {each.allowed}" for each in asked if not each.holds]
    return max([0, *wide]), tuple(doubts)


def _gains_on_newest(mean: Interval, newest: Interval | None) -> bool:
    return newest is not None and newest.holds and mean.difference is not None and mean.difference >= -ROUNDING


def conditions(
    calibration_error: tuple[float | None, float | None],
    seconds: tuple[float | None, float | None],
    golden: Mapping[str, float | str],
    config: GateConfig,
) -> tuple[Condition, ...]:
    """What the gate asks for besides Dice on the promotion patients, each with what was measured.

    Args:
        calibration_error: expected one of champion and challenger, in [0, 1]; None where it was not measured.
        seconds: that a case takes both; None where it was not measured.
        golden: by golden case, the largest loss of Dice of a label, or why it was not measured, which counts as a loss.
        config: what is allowed.
    """
    found = []
    before, after = calibration_error
    if before is not None and after is not None:
        holds = after <= before + config.calibration_slack + ROUNDING
        allowed = f"{config.calibration_slack:g} more"
        found.append(Condition("calibration error", f"{after:.3f} against {before:.3f}", allowed, holds))
    before, after = seconds
    if before is not None and after is not None:
        holds = after <= before * config.latency_factor + ROUNDING
        allowed = f"{config.latency_factor:g} times as much"
        found.append(Condition("time a case", f"{after:.2f} s against {before:.2f} s", allowed, holds))
    return (*found, *(_golden(name, change, config.golden_drop) for name, change in golden.items()))


def _golden(name: str, change: float | str, drop: float) -> Condition:
    if isinstance(change, str):
        return Condition(f"golden case {name}", f"could not be measured ({change})", f"{-drop:g}", False)
    return Condition(f"golden case {name}", f"changed by {change:+.4f}", f"{-drop:g}", change >= -drop - ROUNDING)


def _reason(of: Comparison, doubts: tuple[str, ...], mean: Interval, newest: Interval | None, missing: int) -> str:
    on = f"on {of.distinct_patients} promotion patients against version {of.version}"
    if not doubts:
        shown = mean if mean.holds or newest is None else newest
        return f"better {on}: {_in_words(shown)}, and no label is worse"
    more = f"; {missing} more promotion patients are needed to decide" if missing else ""
    return f"the champion stays, {on}: {'; '.join(doubts)}{more}"


def _of_whom(label: Interval) -> str:
    return "" if label.against is None else f" of version {label.against}, the best before the champion in this label"


def _in_words(interval: Interval) -> str:
    if interval.difference is None or interval.lower is None:
        return f"{interval.name} unknown"
    return f"{interval.name} {interval.difference:+.4f} (at least {interval.lower:+.4f})"


def _shown(dice: float | None) -> str:
    return "unknown" if dice is None else f"{dice:.4f}"
