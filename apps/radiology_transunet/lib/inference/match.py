"""What must agree between a model and a task: labels, preprocessing, network."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, Protocol

from lib.core.errors import ManifestMismatch
from lib.core.labels import LabelSchema
from lib.inference.config import PredictConfig, PreprocessConfig
from lib.networks.config import DEEPLY_SUPERVISED, NetworkConfig

BEFORE_KINDS: Mapping[str, Any] = MappingProxyType(
    {"kind": "transunet", "patch": None, "strides": [], "channels": [], "parts": "both"}
)
BEFORE_PURE_VIT: Mapping[str, Any] = MappingProxyType({"patch": 1, "pool_padding": 1})
"""What manifests that do not say it mean: of the network block and of its architecture."""

Values = dict[str, Any]


class TaskParts(Protocol):
    """What a model must fit; a Task has it."""

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    @property
    def schema(self) -> LabelSchema:
        """Labels in channel order."""
        ...

    @property
    def preprocess(self) -> PreprocessConfig:
        """Volume -> network input."""
        ...

    @property
    def network(self) -> NetworkConfig:
        """Which network."""
        ...

    @property
    def predict(self) -> PredictConfig:
        """How it is asked."""
        ...


def parts_of(task: TaskParts, network: NetworkConfig, preprocess: PreprocessConfig) -> Values:
    """What must agree between a model and a task with that network and preprocessing."""
    return {
        "task": task.name,
        "labels": tuple((label.name, label.id) for label in task.schema),
        "preprocess": asdict(preprocess),
        "network": network_values(network),
    }


def network_values(config: NetworkConfig) -> Values:
    """What decides whether weights fit and mean the same: the network block and the numbers of its size.

    Left out are dropout, which only training knows, and what the kind does not have: deep supervision (where there is
    any it brings weights of its own), neighbour slices of patches.
    """
    values = asdict(config)
    without = {"dropout"} | (set() if config.kind in DEEPLY_SUPERVISED else {"deep_supervision"})
    without |= {"context_slices"} if config.of_patches else set()
    return {**{k: v for k, v in values.items() if k not in without}, "architecture": asdict(config.numbers)}


def trained_network(trained: Mapping[str, Any], task: TaskParts) -> NetworkConfig:
    """The task's network, with the strides that a model of it was trained with.

    Strides that a task leaves out follow from patch and spacing. Before that they followed from the patch alone and
    manifests left them out: such a model goes on with the network that it has.

    Args:
        trained: the network block of its manifest.
        task: what it is asked to do.
    """
    network = task.network
    if trained.get("strides") or not network.strides or list(network.patch or ()) != trained.get("patch"):
        return network
    plain = replace(network, strides=())
    return plain if plain.with_strides(task.preprocess.spacing_mm) == network else network


def trained_preprocess(trained: Mapping[str, Any], task: TaskParts) -> PreprocessConfig:
    """The task's preprocessing, at the spacing that a model was trained at where the task leaves it open.

    Args:
        trained: the preprocess block of its manifest.
        task: what it is asked to do.
    """
    spacing_mm = trained.get("spacing_mm")
    if task.preprocess.spacing_mm is not None or spacing_mm is None:
        return task.preprocess
    return replace(task.preprocess, spacing_mm=tuple(spacing_mm) if isinstance(spacing_mm, list) else spacing_mm)


def completed(network: Values) -> Values:
    """The network block of a manifest, with what was not written before there was a choice."""
    if "kind" in network:
        return network
    return {**BEFORE_KINDS, **network, "architecture": {**BEFORE_PURE_VIT, **network["architecture"]}}


def require_equal(name: str, wanted: object, came: object, task: str) -> None:
    """Compare plain values, key by key; the numbers of a size after its name."""
    if isinstance(wanted, dict) and isinstance(came, dict):
        for key in sorted(wanted | came, key=lambda key: isinstance(wanted.get(key), dict)):
            require_equal(f"{name}.{key}", wanted.get(key), came.get(key), task)
    elif wanted != came:
        raise ManifestMismatch(
            f"task {task} needs a model with {name} = {wanted!r}, this one has {came!r}; train again"
        )
