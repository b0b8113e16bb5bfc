"""Files of weights from elsewhere, and a network of ours that takes them over."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import InvalidSettings, InvalidWeights, NotFound
from lib.networks.config import NetworkConfig
from lib.networks.pretrained import MOST_NAMED, Head, Imported, classes_of, convert
from lib.networks.transunet import TransUNet

ARCHIVE_SUFFIX = ".npz"
WRAPPERS = ("state_dict", "model", "net")
"""Keys under which training scripts put the weights among other things."""
PARALLEL = "module."
"""What torch's data-parallel modules put before each name."""
FEWEST_CLASSES = 2
UNREADABLE = (
    *(OSError, RuntimeError, TypeError, ValueError, LookupError, EOFError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)
"""What torch and NumPy raise on a file that is cut, of another kind, or holds more than tensors and plain values."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a PyTorch checkpoint, or of a NumPy archive (.npz); nothing in the file is executed.

    Raises:
        NotFound: no such file.
        InvalidWeights: a file of another kind, one that holds objects, or numbers that are not finite.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        found = _read_archive(path) if path.suffix == ARCHIVE_SUFFIX else _read_checkpoint(path)
    except UNREADABLE as error:
        raise InvalidWeights(
            f"{path} must be a PyTorch checkpoint of tensors or a NumPy archive (.npz): {error}"
        ) from error
    if broken := [name for name, value in found.items() if not bool(value.isfinite().all())]:
        raise InvalidWeights(f"{path} must hold finite numbers, got others in {', '.join(broken[:MOST_NAMED])}")
    return found


def take_over(
    foreign: Mapping[str, Tensor],
    config: NetworkConfig,
    channels: int,
    classes: int | None = None,
    head: Head = "same",
    seed: int = 0,
) -> Imported:
    """Fill a TransUNet of slices; what the weights do not have is drawn from the seed.

    Args:
        foreign: tensors by their names elsewhere.
        config: which network.
        channels: slices or channels that enter together.
        classes: labels and background; None = as many as the weights tell apart.
        head: "fresh" does not take the last convolution.
        seed: of what is drawn.

    Raises:
        InvalidSettings: another kind of network.
        InvalidWeights: they do not fill it, see `convert`.
    """
    if config.kind != "transunet":
        raise InvalidSettings(f"weights from elsewhere are for network.kind transunet, got {config.kind!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TransUNet(config, channels, classes or classes_of(foreign) or FEWEST_CLASSES)
    return convert(foreign, network.state_dict(), config.architecture.position_grid, head)


def _read_archive(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive.

    Raises:
        ValueError: no archive, or one that was cut.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no whole archive")
    with np.load(path, allow_pickle=False) as archive:
        return {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files}


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, wrapped or not.

    Raises:
        ValueError: something else.
    """
    found = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError("what it holds is no dict of tensors")
    prefix = PARALLEL if found and all(str(name).startswith(PARALLEL) for name in found) else ""
    return {str(name).removeprefix(prefix): value for name, value in found.items()}
