"""The recipe's fit, killed at every step and in between, ends with the very weights of one that nobody killed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lib.core.labels import LabelSchema
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.networks.network import Network
from lib.training import fit as fit_module
from lib.training import run as run_module
from lib.training import warmstart
from lib.training.checkpoint import Checkpoint
from lib.training.config import FitConfig
from lib.training.data import Case
from lib.training.fit import FitProgress, FitResult, fit
from lib.training.run import Run
from lib.training.warmstart import half_new, warm_start

MakeCase = Callable[[int], Case]
NETWORK = NetworkConfig(context_slices=0)
RECIPE = FitConfig(
    steps=7,
    batch_size=2,
    accumulate=2,
    warmup=0.2,
    ema_decay=0.9,
    keep="best",
    validate_every=3,
    checkpoint_every=2,
    adaptive_weights=True,
)


class Killed(Exception):
    """Stands for the end of the process."""


class Small(Network):
    """Two convolutions with all that keeps a state or draws at random: a batch norm, dropout."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, classes, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self(images), images.mean(dim=(2, 3))

    def supervised(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self(images),)


class Deadly:
    """Kills once at each of the numbered calls of a function, before or after it has done its work."""

    def __init__(self, calls: set[tuple[str, int]]) -> None:
        self.left = calls
        self.count = 0

    def around(self, function: Callable[..., object]) -> Callable[..., object]:
        """The function with kills before and after its n-th call, counted over all attempts."""

        def deadly(*arguments: object, **options: object) -> object:
            self.count += 1
            number = self.count
            self._maybe("before", number)
            result = function(*arguments, **options)
            self._maybe("after", number)
            return result

        return deadly

    def _maybe(self, when: str, number: int) -> None:
        if (when, number) in self.left:
            self.left.remove((when, number))
            raise Killed


@pytest.fixture
def run(make_case: MakeCase, schema: LabelSchema, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], FitResult]:
    """Fits what a night would: from a shrunken champion, half of the pictures new, the best of some validations."""
    for module in (run_module, warmstart):
        monkeypatch.setattr(module, "build_network", lambda config, schema: Small(len(schema) + 1))
    torch.manual_seed(8)
    champion = Small(len(schema) + 1).state_dict()
    start = warm_start(champion, NETWORK, schema, seed=4, keep=0.6)
    cases, weights = [make_case(number) for number in (1, 2, 3)], half_new((False, False, True), 0.5)

    def act(folder: Path, report: Callable[[FitProgress], None] = lambda _: None) -> FitResult:
        arguments = NETWORK, PreprocessConfig(), RECIPE, folder, "cpu", report
        return fit(cases, [make_case(9)], *arguments, start=start, weights=weights)

    return act


def until_it_ends(act: Callable[[], FitResult]) -> tuple[FitResult, int]:
    """The end of what is killed and started again, and how often it was killed."""
    kills = 0
    while True:
        try:
            return act(), kills
        except Killed:
            kills += 1
            assert kills < 100


def require_same(found: FitResult, whole: FitResult) -> None:
    assert (found.losses, found.rates, found.curve) == (whole.losses, whole.rates, whole.curve)
    assert (found.dice, found.cases, found.steps) == (whole.dice, whole.cases, whole.steps)
    assert found.state_dict.keys() == whole.state_dict.keys()
    for name, value in whole.state_dict.items():
        assert torch.equal(found.state_dict[name], value), name


def test_the_recipes_fit_killed_at_each_step_in_turn_ends_as_one_that_was_not(
    run: Callable[..., FitResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    assert [step for step, _ in whole.curve] == [3, 6, 7]
    monkeypatch.setattr(fit_module, "REPORT_EVERY_S", 0.0)
    left = set(range(1, RECIPE.steps + 1))

    def kill(progress: FitProgress) -> None:
        if progress.stage == "train" and progress.step in left:
            left.remove(progress.step)
            raise Killed

    found, kills = until_it_ends(lambda: run(tmp_path / "parts", kill))
    assert (kills, left) == (7, set())
    require_same(found, whole)


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (Run, "learn", {("before", 1), ("after", 3), ("before", 6), ("after", 8)}),
        (fit_module, "validate", {("before", 1), ("after", 2), ("before", 3), ("after", 4)}),
        (Checkpoint, "save", {("before", 1), ("after", 2), ("before", 3), ("after", 5)}),
        (fit_module, "measure", {("before", 1), ("after", 2)}),
    ],
)
def test_kills_around_steps_validations_checkpoints_and_the_last_measurement_change_nothing(
    owner: object,
    name: str,
    calls: set[tuple[str, int]],
    run: Callable[..., FitResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run(tmp_path / "whole")
    deadly = Deadly(set(calls))
    monkeypatch.setattr(owner, name, deadly.around(getattr(owner, name)))
    found, kills = until_it_ends(lambda: run(tmp_path / "parts"))
    assert (kills, deadly.left) == (len(calls), set())
    require_same(found, whole)
