"""Strategies that the settings leave without what they rank by."""

from lib.core.errors import InvalidInput
from lib.selection.config import SAMPLED
from lib.selection.strategies import STRATEGIES
from lib.settings import Settings


def why_not(settings: Settings, strategy: str) -> str:
    """Why a strategy cannot rank under these settings, in words; "" = it can."""
    if strategy in SAMPLED and settings.uncertainty.kind == "entropy":
        return f"{strategy} needs samples: set uncertainty.kind to dropout, tta or ensemble"
    return ""


def available(settings: Settings) -> list[str]:
    """The strategies that can rank."""
    return [name for name in STRATEGIES if not why_not(settings, name)]


def required_strategy(settings: Settings, name: str) -> str:
    """The name, or that of the configured strategy for "", when it can rank.

    A queue without scores would be drawn at random under another name, so none is made.

    Raises:
        InvalidInput: no such strategy, with the list; or one that lacks what it ranks by, with the way out.
    """
    chosen = name or settings.query.strategy
    if chosen not in STRATEGIES:
        raise InvalidInput(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    if reason := why_not(settings, chosen):
        raise InvalidInput(f"{reason}; or ask for one of {', '.join(available(settings))}")
    return chosen
