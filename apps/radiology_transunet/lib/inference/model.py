"""Weights on disk and the manifest that travels with them.

A model is a folder with `manifest.json` and the weights file that it names. The weights are written first under a
name of their own and the manifest last, each moved into place with os.replace: a reader sees the old model or the
new one, never half of one.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.core.atomic import replacing
from lib.core.errors import ManifestMismatch, NotFound
from lib.core.labels import LabelSchema
from lib.inference.config import PreprocessConfig
from lib.inference.devices import choose_device
from lib.inference.ensemble import Ensemble
from lib.inference.match import (
    TaskParts,
    Values,
    completed,
    parts_of,
    require_equal,
    trained_network,
    trained_preprocess,
)
from lib.inference.predictor import Predictor
from lib.inference.preprocess import Preprocess
from lib.networks.build import build
from lib.networks.config import NetworkConfig
from lib.networks.fuse import fuse
from lib.networks.network import Network

FORMAT = 1
MANIFEST = "manifest.json"
PACKAGES = ("radiology-transunet", "torch", "numpy", "scipy", "einops")

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model was trained for, on and with.

    Attributes:
        task: name of the task.
        labels: (name, id) in channel order.
        preprocess: the preprocess block, as plain values.
        network: the network block and the numbers of its size, as plain values.
        seed: of the training.
        annotations: ids of the annotations that it learned from; empty for folders of files.
        metrics: figures by name, for example "dice/liver".
        packages: versions by distribution name.
        weights: name of the weights file beside the manifest; empty until saved.
        sha256: of the weights file; empty until saved.
        files: SHA-256 of the image files that it learned from; empty for annotations of the ledger.
        inherited: ids of the annotations that the models before it learned from, whose weights it went on from.
    """

    task: str
    labels: tuple[tuple[str, int], ...]
    preprocess: Values
    network: Values
    seed: int
    annotations: tuple[int, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    sha256: str = ""
    files: tuple[str, ...] = ()
    inherited: tuple[int, ...] = ()

    @classmethod
    def describe(
        cls,
        task: TaskParts,
        seed: int,
        metrics: Mapping[str, float] | None = None,
        annotations: tuple[int, ...] = (),
        files: tuple[str, ...] = (),
        inherited: tuple[int, ...] = (),
    ) -> "Manifest":
        """The manifest of a model for this task, trained here and now."""
        return cls(
            **parts_of(task, task.network, task.preprocess),
            seed=seed,
            annotations=annotations,
            metrics=dict(metrics or {}),
            packages=installed_packages(),
            files=files,
            inherited=inherited,
        )

    def to_dict(self) -> Values:
        """Plain values, as in the file."""
        values: Values = json.loads(json.dumps({"format": FORMAT, **asdict(self)}))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Manifest":
        """The manifest of such values.

        Raises:
            ManifestMismatch: another format, or fields that are missing or unknown.
        """
        if values.get("format") != FORMAT:
            raise ManifestMismatch(f"the manifest's format must be {FORMAT}, got {values.get('format')!r}")
        rest = {key: value for key, value in values.items() if key != "format"}
        try:
            rest["labels"] = tuple((str(name), int(number)) for name, number in rest["labels"])
            rest["annotations"] = tuple(rest["annotations"])
            rest["files"] = tuple(rest.get("files", ()))
            rest["inherited"] = tuple(rest.get("inherited", ()))
            rest["network"] = completed(rest["network"])
            return cls(**rest)
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestMismatch(f"the manifest's fields are not those of format {FORMAT}: {error}") from error

    def require_fits(self, task: TaskParts) -> None:
        """Raise ManifestMismatch with the first field that differs and both values, unless the model fits the task.

        What the task leaves open is as the model was trained; see `trained_network` and `trained_preprocess`.
        """
        self._require(task, trained_network(self.network, task), trained_preprocess(self.preprocess, task))

    def require_starts(self, task: TaskParts) -> None:
        """Raise ManifestMismatch unless a training of the task can go on from these weights: its very network."""
        self._require(task, task.network, task.preprocess)

    def _require(self, task: TaskParts, network: NetworkConfig, preprocess: PreprocessConfig) -> None:
        mine = self.to_dict()
        for key, wanted in json.loads(json.dumps(parts_of(task, network, preprocess))).items():
            require_equal(key, wanted, mine[key], task.name)


def save_model(folder: Path, manifest: Manifest, state: StateDict) -> Manifest:
    """Write weights and manifest into the folder; returns the manifest with the weights' name and checksum.

    Raises:
        DiskFull: no room; a model that was there before is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "weights") as unnamed:
        with unnamed.open("wb") as stream:  # torch's own file would hide why it cannot be written
            torch.save({key: value.detach().cpu() for key, value in state.items()}, stream)
        checksum = file_sha256(unnamed)
        weights = f"weights-{checksum[:12]}.pt"
    os.replace(folder / "weights", folder / weights)
    saved = Manifest.from_dict({**manifest.to_dict(), "weights": weights, "sha256": checksum})
    text = json.dumps(saved.to_dict(), indent=2, sort_keys=True) + "\n"
    with replacing(folder / MANIFEST) as unnamed:
        unnamed.write_text(text, encoding="utf-8")
    for old in folder.glob("weights-*.pt"):
        if old.name != weights:
            old.unlink(missing_ok=True)
    return saved


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder.

    Raises:
        NotFound: there is none.
        ManifestMismatch: it cannot be read.
    """
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"{folder} must be a model folder with {MANIFEST}: {error.strerror}") from error
    except ValueError as error:
        raise ManifestMismatch(f"{folder / MANIFEST} is no valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ManifestMismatch(f"{folder / MANIFEST} must hold a mapping, got a {type(values).__name__}")
    return Manifest.from_dict(values)


def read_state(folder: Path) -> StateDict:
    """The weights of a model folder, on the CPU.

    Raises:
        NotFound: no model there.
        ManifestMismatch: the file is not the one that the manifest names.
    """
    manifest = read_manifest(folder)
    path = folder / manifest.weights
    if not path.is_file():
        raise NotFound(f"the weights of {folder / MANIFEST} are missing: {path}")
    if (came := file_sha256(path)) != manifest.sha256:
        raise ManifestMismatch(f"{path} must have the SHA-256 {manifest.sha256} of its manifest, got {came}")
    try:
        state: StateDict = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError) as error:
        raise ManifestMismatch(f"{path} must hold weights: {error}") from error
    return state


def load_predictor(folder: Path, task: TaskParts, device: str, batch_size: int) -> Predictor:
    """The model of a folder, ready to predict; raises what `load_ensemble` raises."""
    return load_ensemble([folder], task, device, batch_size)


def load_ensemble(folders: Sequence[Path], task: TaskParts, device: str, batch_size: int) -> Predictor:
    """The models of one folder or more, ready to predict with the mean of their probabilities.

    Raises:
        InvalidSettings: no folder.
        NotFound: no model in one of them.
        ManifestMismatch: a model that does not fit the task, or weights that do not fit their manifest.
    """
    networks = [load_network(folder, task) for folder in folders]
    network = networks[0] if len(networks) == 1 else Ensemble(networks)
    preprocess = preprocess_of(folders, task)
    return Predictor(network, preprocess, task.schema, choose_device(device), batch_size, task.predict)


def preprocess_of(folders: Sequence[Path], task: TaskParts) -> Preprocess:
    """The preprocessing of models of a task.

    Raises:
        ManifestMismatch: models that were trained at different spacings, where the task leaves the spacing open.
    """
    found = [trained_preprocess(read_manifest(folder).preprocess, task) for folder in folders]
    for folder, config in zip(folders, found, strict=True):
        if config != found[0]:
            raise ManifestMismatch(
                f"models that answer as one must have one preprocess.spacing_mm, {folders[0]} has "
                f"{found[0].spacing_mm}, {folder} has {config.spacing_mm}"
            )
    return build_preprocess(found[0], task.network)


def load_network(folder: Path, task: TaskParts) -> Network:
    """The network of a model, for inference alone."""
    manifest = read_manifest(folder)
    manifest.require_fits(task)
    network = build_network(trained_network(manifest.network, task), task.schema)
    try:
        network.load_state_dict(read_state(folder), strict=True)
    except RuntimeError as error:
        raise ManifestMismatch(f"the weights in {folder} do not fit the network of {task.name}: {error}") from error
    return fuse(network)


def build_network(config: NetworkConfig, schema: LabelSchema) -> Network:
    """An untrained network for these labels."""
    return build(config, len(schema) + 1)


def build_preprocess(config: PreprocessConfig, network: NetworkConfig) -> Preprocess:
    """The preprocessing of a task for its network."""
    if network.patch is not None:
        return Preprocess(config, context_slices=0, stride=1, patch=network.patch)
    return Preprocess(config, network.context_slices, network.stride)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def installed_packages() -> dict[str, str]:
    """Versions of what computes; a distribution that is not installed is left out."""
    found = {name: list(metadata.distributions(name=name)) for name in PACKAGES}
    return {name: parts[0].version for name, parts in found.items() if parts}
