"""In which order cases are handed out that come from several lanes: by strategy, drawn at random, held out.

A model may not choose the patients that it is measured on, and what a strategy chooses tells nothing of all cases. So
only pool cases are ranked by a strategy; a share of them is drawn at random beforehand and kept from it; held-out
patients are drawn at random too. The lanes take turns by their shares.

Turns are numbered from the first case that was ever handed out, and a turn's lane depends on its number alone: a list
that is made anew after each label goes on where the last one was, instead of starting with the strategy each time.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lib.core.errors import InvalidInput
from lib.selection.ranking import random_order

RANDOM = "random"
HELD_OUT = "held-out"
STRATEGY = "strategy"


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each lane has its turn; the strategy has the others.

    Attributes:
        random: share of the pool's turns, in [0, 1].
        held_out: share of all turns, in [0, 1).

    Raises:
        InvalidInput: shares that are none.
    """

    random: float
    held_out: float

    def __post_init__(self) -> None:
        if not (0 <= self.random <= 1 and 0 <= self.held_out < 1):
            raise InvalidInput(
                f"shares must be 0 to 1 at random and 0 to below 1 held out, got {self.random:g} and {self.held_out:g}"
            )

    def held_out_before(self, turn: int) -> int:
        """How many of the turns before this one, counted from 0, belong to held-out patients."""
        return _turns(turn, self.held_out)

    def lane(self, turn: int) -> str:
        """The lane that has a turn, counted from 0."""
        before = self.held_out_before(turn)
        if self.held_out_before(turn + 1) > before:
            return HELD_OUT
        of_pool = turn - before
        return RANDOM if _turns(of_pool + 1, self.random) > _turns(of_pool, self.random) else STRATEGY


@dataclass(frozen=True, slots=True)
class Place:
    """A case in the list.

    Attributes:
        case: its id.
        lane: STRATEGY, RANDOM or HELD_OUT.
    """

    case: str
    lane: str


def draw(ids: Sequence[str], seed: int, share: float) -> tuple[str, ...]:
    """That share of the cases, at least one unless it is 0, in an order drawn at random.

    The draw is tied to ids and seed: as cases are labelled lane by lane, the rest of a draw stays what it was.

    Args:
        ids: of the cases, each once.
        seed: of the draw.
        share: in [0, 1].

    Raises:
        InvalidInput: an id that occurs twice.
    """
    order = random_order(ids, seed).order.tolist()
    return tuple(ids[i] for i in order[: math.ceil(share * len(ids) - 1e-9)])


def interleave(
    ranked: Sequence[str], drawn: Sequence[str], held_out: Sequence[Sequence[str]], shares: Shares, turn: int = 0
) -> list[Place]:
    """All cases, each once, in the order in which they are handed out.

    A lane without cases leaves its turn to the next one: held-out groups, which take the turns of their lane one after
    the other, to each other and then to the strategy; strategy and random lane to each other, then to held-out groups.

    Args:
        ranked: by the strategy, the best in front.
        drawn: the random lane; a case that is also ranked has the place that comes first.
        held_out: the groups of held-out cases, each in the order of its draw.
        shares: of the lanes.
        turn: the number of turns that were taken before.
    """
    lanes = [_Lane(STRATEGY, ranked), _Lane(RANDOM, drawn), *(_Lane(HELD_OUT, group) for group in held_out)]
    pool, groups = lanes[:2], lanes[2:]
    placed: set[str] = set()
    places: list[Place] = []
    while place := _first(_preferred(shares, turn, pool, groups), placed):
        places.append(place)
        placed.add(place.case)
        turn += 1
    return places


class _Lane:
    """What is left of a lane."""

    __slots__ = ("left", "name")

    def __init__(self, name: str, cases: Sequence[str]) -> None:
        self.name = name
        self.left = deque(cases)

    def next(self, placed: set[str]) -> Place | None:
        """Its next case that has no place yet, None when there is none."""
        while self.left:
            case = self.left.popleft()
            if case not in placed:
                return Place(case, self.name)
        return None


def _preferred(shares: Shares, turn: int, pool: Sequence[_Lane], groups: Sequence[_Lane]) -> Iterator[_Lane]:
    """The lanes in the order in which they are asked for the case of a turn."""
    lane = shares.lane(turn)
    first = shares.held_out_before(turn) % len(groups) if groups else 0
    in_turn = (*groups[first:], *groups[:first])
    of_pool = pool if lane != RANDOM else pool[::-1]
    return iter((*in_turn, *of_pool) if lane == HELD_OUT else (*of_pool, *in_turn))


def _first(lanes: Iterator[_Lane], placed: set[str]) -> Place | None:
    return next((place for lane in lanes if (place := lane.next(placed))), None)


def _turns(count: int, share: float) -> int:
    """How many of the first `count` turns belong to a lane of that share, spread evenly."""
    return math.floor(count * share + 0.5)
