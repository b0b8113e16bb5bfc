"""A model and what its answers are compared with, ready to predict."""

from collections.abc import Sequence
from pathlib import Path

from lib.inference.config import UncertaintyConfig
from lib.inference.devices import choose_device
from lib.inference.model import TaskParts, build_preprocess, load_network
from lib.inference.predictor import Predictor


def load_sampled(
    folder: Path,
    others: Sequence[Path],
    task: TaskParts,
    device: str,
    batch_size: int,
    uncertainty: UncertaintyConfig,
) -> Predictor:
    """The model of a folder, whose answers are compared with samples as the config says.

    Args:
        folder: of the model whose labels count.
        others: of models to compare it with, for an ensemble.
        task: of them all.
        device: where they run.
        batch_size: slices in one forward pass.
        uncertainty: what it is read from.

    Raises:
        InvalidSettings: samples that the network or the task's options do not give.
        NotFound, ManifestMismatch: as `load_ensemble`.
    """
    network, *further = (load_network(one, task) for one in (folder, *others))
    preprocess = build_preprocess(task.preprocess, task.network)
    where = choose_device(device)
    return Predictor(network, preprocess, task.schema, where, batch_size, task.predict, uncertainty, further)
