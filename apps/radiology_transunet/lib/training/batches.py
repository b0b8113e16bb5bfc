"""The pictures of a step: which ones, how they are changed, and which of them are this process's own."""

import numpy as np
import torch

from lib.training import augment
from lib.training.augment_mix import before
from lib.training.config import FitConfig
from lib.training.data import Batch, TrainingSet
from lib.training.distributed import ALONE, Group
from lib.training.run import memory_format


def draw_batch(
    data: TrainingSet, config: FitConfig, step: int, progress: float, device: torch.device, group: Group = ALONE
) -> Batch:
    """The pictures of a step that are this process's own, with those of all its accumulated batches.

    Args:
        data: to draw from.
        config: how.
        step: number of the step, which the draws follow from.
        progress: share of the run that is over; rare labels are drawn the less often for their sake the later it is.
        device: where the pictures go.
        group: the processes that share the step.
    """
    rng = np.random.default_rng((config.seed, step))
    count, seed = config.batch_size * config.accumulate, int(rng.integers(2**62))
    picks = data.sampler.draw(rng, count, config.foreground, config.rare_oversampling * (1 - progress))
    drawn = augment.draw(rng, config.augment, count, data.dimensions)
    own = group.share(count)
    partners = 1 if drawn.mixing is not None and group.size > 1 else 0  # each picture's is the one before it
    numbers = range(own.start - partners, own.stop)
    batch = data.batch([picks[number] for number in numbers], device)
    images, classes = augment.apply(batch.images, batch.classes, drawn if group.size == 1 else drawn.only(numbers))
    covered, others = batch.covered, (before(classes)[1:], before(batch.covered)[1:]) if partners else None
    if drawn.mixing is not None and not drawn.mixing.blends:
        covered = covered & before(covered)  # a picture with a box of another one says what both say
    return Batch(
        images=images[partners:].contiguous(memory_format=memory_format(images.ndim)),
        classes=classes[partners:],
        covered=covered[partners:],
        names=tuple(data.cases[pick.case].name for pick in picks),
        mixing=drawn.mixing,
        seed=seed,
        others=others,
    )
