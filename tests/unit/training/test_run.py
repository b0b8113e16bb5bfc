from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lib.core.errors import InvalidSettings, ProcessLost, TrainingFailed
from lib.core.labels import LabelSchema
from lib.inference.config import PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.networks.network import Network
from lib.training import precision
from lib.training import run as run_module
from lib.training.augment_mix import Mixing
from lib.training.config import AugmentConfig, FitConfig
from lib.training.data import Batch, Case
from lib.training.distributed import Group
from lib.training.fit import FitResult, fit
from lib.training.losses import LabelWeights, Target, segmentation_loss
from lib.training.precision import half_type, precision_name
from lib.training.run import Run, make_optimizer
from lib.training.weights import RunningDice

MakeCase = Callable[[int], Case]
CPU = torch.device("cpu")
SLICES = NetworkConfig(context_slices=0, dropout=0.0)
PLAIN = AugmentConfig(0, 0, 0, 0, 0, 0, 0)


class TwoLevels(Network):
    """A convolution, and the same at half the size for deep supervision; no norm, no dropout."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.convolution(images)
        return logits

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self(images), images.mean(dim=(2, 3))

    def supervised(self, images: Tensor) -> tuple[Tensor, ...]:
        logits = self(images)
        return logits, nn.functional.avg_pool2d(logits, 2)


@pytest.fixture
def two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "build_network", lambda config, schema: TwoLevels(1, len(schema) + 1))


def random_batch(count: int, seed: int = 0, covered: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    classes = torch.randint(0, 3, (count, 8, 8), generator=generator)
    classes[0, :3] = 255
    what = torch.ones(count, 3, dtype=torch.bool)
    what[0, 1] = covered
    return Batch(images, classes, what, tuple(f"c{n}" for n in range(count)))


def started(config: FitConfig, schema: LabelSchema) -> Run:
    return Run.start(SLICES, schema, config, CPU, ((4, 1), 4))


@pytest.mark.usefixtures("two_levels")
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "tversky_ce"])
def test_accumulated_batches_make_the_step_of_one_large_batch(loss: str, optimiser: str, schema: LabelSchema) -> None:
    options = {"loss": loss, "optimiser": optimiser, "adaptive_weights": True, "learning_rate": 0.1}
    whole = started(FitConfig(batch_size=6, **options), schema)  # type: ignore[arg-type]
    parts = started(FitConfig(batch_size=2, accumulate=3, **options), schema)  # type: ignore[arg-type]
    mixing = Mixing(0.3)
    for step in range(4):
        batch = replace(random_batch(6, step, covered=False), mixing=mixing if step == 2 else None)
        assert parts.learn(batch, 0.1) == pytest.approx(whole.learn(batch, 0.1), abs=1e-6)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(parts.network.state_dict()[name], value, atol=1e-5, rtol=1e-5)


def test_running_statistics_count_each_picture_of_accumulated_parts_once(
    schema: LabelSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Normed(TwoLevels):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__(channels, classes)
            self.convolution = nn.Sequential(nn.BatchNorm2d(channels), self.convolution)  # type: ignore[assignment]

    monkeypatch.setattr(run_module, "build_network", lambda config, schema: Normed(1, 3))
    run = started(FitConfig(batch_size=2, accumulate=2), schema)
    batch, (norm,) = random_batch(4, 1), [m for m in run.network.modules() if isinstance(m, nn.BatchNorm2d)]
    run.learn(batch, 0.1)
    wanted = torch.zeros(1)
    for part in torch.split(batch.images, 2):
        wanted = 0.9 * wanted + 0.1 * part.mean((0, 2, 3))
    assert norm.num_batches_tracked == 2
    torch.testing.assert_close(norm.running_mean, wanted)


@pytest.mark.usefixtures("two_levels")
def test_a_step_on_sums_that_were_given_up_is_not_taken(schema: LabelSchema) -> None:
    run = started(FitConfig(batch_size=2), schema)
    run.group = Group()
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.group.abort()
    with pytest.raises(ProcessLost, match="goes on from its checkpoint"):
        run.learn(random_batch(2, 1), 0.1)
    assert run.step == 0
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())


def test_accumulation_in_a_fit_ends_like_large_batches_without_dropout(make_case: MakeCase, tmp_path: Path) -> None:
    config = FitConfig(steps=3, batch_size=4, optimiser="sgd", learning_rate=0.01)
    results = [
        fit([make_case(1)], [], SLICES, PreprocessConfig(), replace(config, **sizes), tmp_path / str(n), "cpu")
        for n, sizes in enumerate(({}, {"batch_size": 2, "accumulate": 2}, {"batch_size": 3, "accumulate": 1}))
    ]
    assert results[1].losses == pytest.approx(results[0].losses, abs=1e-5)
    for name, value in results[0].state_dict.items():
        torch.testing.assert_close(results[1].state_dict[name], value, atol=1e-5, rtol=1e-4)
    assert results[2].losses[0] != pytest.approx(results[0].losses[0], abs=1e-5)


@pytest.mark.usefixtures("two_levels")
def test_a_blended_batch_costs_the_share_of_both_partners_with_their_own_coverage(schema: LabelSchema) -> None:
    config = FitConfig()
    run, batch = started(config, schema), replace(random_batch(3, covered=False), mixing=Mixing(0.3))
    with torch.no_grad():
        outputs = run.network.supervised(batch.images)
        own = segmentation_loss(outputs, Target(batch.classes, batch.covered), config).value
        order = [2, 0, 1]
        theirs = segmentation_loss(outputs, Target(batch.classes[order], batch.covered[order]), config).value
    assert run.learn(batch, 0.0) == pytest.approx(float(0.3 * own + 0.7 * theirs))


@pytest.mark.usefixtures("two_levels")
def test_adaptive_weights_follow_counts_and_running_dice(schema: LabelSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[LabelWeights | None] = []
    honest = segmentation_loss

    def watched(outputs: object, target: object, config: object, weights: LabelWeights | None, total: object) -> object:
        seen.append(weights)
        return honest(outputs, target, config, weights, total)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "segmentation_loss", watched)
    run = started(FitConfig(adaptive_weights=True), schema)
    run.learn(random_batch(2), 0.0)
    assert None not in run.running.values
    run.running = RunningDice((0.5, 0.75))
    run.learn(random_batch(2), 0.0)
    # shown by 4 and 1 of 4 cases: effective numbers 4 (1 - 0.75^4) = 2.734 and 1; they miss 4/3 and 2/3 of the mean, so
    # 0.4877 and 0.6667, which is 0.845 and 1.155 of their median, the lower one raised to 1
    assert seen[1] is not None
    assert seen[1].lift.tolist() == pytest.approx([1.0, 2 * 0.6667 / (0.4877 + 0.6667)], abs=1e-3)
    assert seen[1].company.tolist() == [[1.0, 0.25], [1.0, 1.0]]
    started(FitConfig(), schema).learn(random_batch(2), 0.0)
    assert seen[2] is None


def test_gradients_are_clipped_and_the_rate_is_the_one_that_is_given(schema: LabelSchema, two_levels: None) -> None:
    run = started(FitConfig(optimiser="sgd", grad_clip=1e-3, weight_decay=0.0), schema)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.learn(random_batch(2), 0.5)
    moved = torch.cat([(value - before[name]).flatten() for name, value in run.network.state_dict().items()])
    # Nesterov's first step: rate x (1 + momentum) x gradient, whose norm is 0.001
    assert float(moved.norm()) == pytest.approx(0.5 * 1.99 * 1e-3, rel=1e-3)


def test_optimisers_are_those_of_the_config() -> None:
    network = nn.Linear(2, 2)
    sgd = make_optimizer(FitConfig(optimiser="sgd", weight_decay=3e-5), network)
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.99, True, 3e-5)
    assert isinstance(make_optimizer(FitConfig(), network), torch.optim.AdamW)


def test_fp16_is_refused_without_cuda_and_auto_means_full_precision_there() -> None:
    with pytest.raises(
        InvalidSettings, match=r"training\.precision fp16 needs a CUDA device, got cpu; bf16 and fp32 run"
    ):
        half_type(FitConfig(precision="fp16"), CPU)
    assert half_type(FitConfig(precision="auto"), CPU) is None
    assert half_type(FitConfig(precision="fp32"), CPU) is None


def test_the_card_that_trains_says_whether_it_computes_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    abilities = {0: (8, 0), 1: (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: abilities[device.index])
    new, old = torch.device("cuda", 0), torch.device("cuda", 1)
    for name in ("auto", "bf16"):
        config = FitConfig(precision=name)  # type: ignore[arg-type]
        assert (precision_name(config, new), precision_name(config, old)) == ("bf16", "fp32")
    asked = FitConfig(precision="bf16")
    assert precision.other_precision(asked, new) == ""
    assert "cuda:1 does not compute in it" in precision.other_precision(asked, old)
    assert precision.other_precision(FitConfig(precision="auto"), old) == ""


def test_bf16_on_a_cpu_is_bf16_where_the_cpu_computes_in_it_and_fp32_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FitConfig(precision="bf16")
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    assert (half_type(config, CPU), precision_name(config, CPU)) == (torch.bfloat16, "bf16")
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: False)
    assert (half_type(config, CPU), precision_name(config, CPU)) == (None, "fp32")


def test_a_cpu_without_bf16_computes_in_fp32_and_says_so_once_in_log_and_result(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: False)
    config = FitConfig(steps=2, batch_size=2)
    full, half = (
        fit([make_case(1)], [], SLICES, PreprocessConfig(), replace(config, precision=name), tmp_path / name, "cpu")  # type: ignore[arg-type]
        for name in ("fp32", "bf16")
    )
    assert all(torch.equal(value, full.state_dict[name]) for name, value in half.state_dict.items())
    (said,) = half.notes
    assert said.startswith("training.precision bf16 was asked for, and cpu does not compute in it")
    assert said.endswith("computed in fp32")
    assert [record.message for record in caplog.records if "precision" in record.message] == [said]
    assert full.notes == ()
    assert [result.usage.precision for result in (full, half) if result.usage] == ["fp32", "fp32"]


def test_bf16_trains_on_a_cpu_close_to_full_precision(
    make_case: MakeCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)  # imitated where need be
    config = FitConfig(steps=4, batch_size=2, learning_rate=1e-3)
    full, half = (
        fit([make_case(1)], [], SLICES, PreprocessConfig(), replace(config, precision=name), tmp_path / name, "cpu")  # type: ignore[arg-type]
        for name in ("fp32", "bf16")
    )
    assert half.losses == pytest.approx(full.losses, rel=0.05)
    assert half.losses != full.losses
    assert half.usage is not None
    assert half.usage.precision == "bf16"
    assert half.notes == ()
    assert all(value.dtype == torch.float32 for value in half.state_dict.values())


@pytest.mark.usefixtures("two_levels")
def test_the_loss_scaling_of_fp16_changes_no_step_and_skips_one_that_overflows(schema: LabelSchema) -> None:
    plain, scaled = (started(FitConfig(batch_size=2, accumulate=2), schema) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)  # type: ignore[attr-defined]
    for step in range(2):
        assert scaled.learn(random_batch(4, step), 0.01) == plain.learn(random_batch(4, step), 0.01)
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(scaled.network.state_dict()[name], value)
    before = {name: value.clone() for name, value in scaled.network.state_dict().items()}
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=3e38, backoff_factor=0.5)  # type: ignore[attr-defined]
    scaled.learn(replace(random_batch(4), images=1e4 * random_batch(4).images), 0.01)
    assert all(torch.equal(value, before[name]) for name, value in scaled.network.state_dict().items())
    again = started(FitConfig(), schema)
    again.scaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    again.resume(scaled.checkpoint("key", 1.0))
    assert again.scaler.get_scale() == scaled.scaler.get_scale() == pytest.approx(1.5e38)


@pytest.mark.usefixtures("two_levels")
def test_gradients_that_overflow_without_any_scaling_end_the_run(schema: LabelSchema) -> None:
    run = started(FitConfig(), schema)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)  # type: ignore[attr-defined]
    bad = replace(random_batch(2), images=torch.full((2, 1, 8, 8), torch.inf), names=("liver 3", "liver 3"))
    with pytest.raises(TrainingFailed, match=r"the loss at step 1 must be a number, got nan .* on the cases liver 3;"):
        run.learn(bad, 0.1)


def fitted(cases: list[Case], config: FitConfig, folder: Path) -> FitResult:
    return fit(cases, cases, SLICES, PreprocessConfig(), config, folder, "cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "sgd", "learning_rate": 0.01, "schedule": "poly"},
        {"loss": "dice_focal", "adaptive_weights": True},
        {"loss": "tversky_ce", "tversky_alpha": 0.2, "rare_oversampling": 0.0},
        {"ema_decay": 0.0, "accumulate": 2},
        {"augment": AugmentConfig(mixup=1.0)},
        {"augment": AugmentConfig(cutmix=1.0, flips=("columns",))},
    ],
)
def test_options_take_effect_and_losses_stay_numbers(
    options: dict[str, object], make_case: MakeCase, tmp_path: Path
) -> None:
    config = FitConfig(steps=3, batch_size=2)
    changed = fitted([make_case(1)], replace(config, **options), tmp_path / "changed")  # type: ignore[arg-type]
    plain = fitted([make_case(1)], config, tmp_path / "plain")
    assert np.isfinite(changed.losses).all()
    assert any(not torch.equal(value, plain.state_dict[name]) for name, value in changed.state_dict.items())
