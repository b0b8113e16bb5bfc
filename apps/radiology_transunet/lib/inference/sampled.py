"""A model and what its answers are compared with, ready to predict."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lib.core.errors import ManifestMismatch, NotFound
from lib.inference.config import UncertaintyConfig
from lib.inference.devices import choose_device
from lib.inference.match import TaskParts
from lib.inference.model import load_network, preprocess_of
from lib.inference.predictor import Predictor
from lib.networks.network import Network

logger = logging.getLogger(__name__)


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
        others: of models to compare it with, for an ensemble: as many of the first ones as `uncertainty.samples` leaves
            room for; one that cannot be loaded, or does not fit the task any more, is left out.
        task: of them all.
        device: where they run.
        batch_size: slices in one forward pass.
        uncertainty: what it is read from.

    Raises:
        InvalidSettings: samples that the network or the task's options do not give.
        NotFound, ManifestMismatch: as `load_ensemble`, of the model whose labels count.
    """
    network = load_network(folder, task)
    further = _loadable(others, folder, task, uncertainty.samples - 1)
    preprocess = preprocess_of([folder], task)
    where = choose_device(device)
    return Predictor(network, preprocess, task.schema, where, batch_size, task.predict, uncertainty, further)


def _loadable(folders: Sequence[Path], beside: Path, task: TaskParts, most: int) -> list[Network]:
    """The first networks that can be had: what only comments on a model must not keep it from serving."""
    found: list[Network] = []
    for folder in folders:
        if len(found) == most:
            break
        try:
            preprocess_of([beside, folder], task)
            found.append(load_network(folder, task))
        except (NotFound, ManifestMismatch) as error:
            logger.warning("the model in %s is not compared with: %s", folder, error)
    return found
