"""Task files: one YAML a label set, from which everything else follows.

A data team starts a new label set by writing one such file in tasks/, or anywhere and naming its path.
"""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lib.core.errors import InvalidTask
from lib.core.labels import Label, LabelSchema
from lib.inference.config import PredictConfig, PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.strict import Path as KeyPath
from lib.strict import build
from lib.training.config import FitConfig

TASKS_FOLDER = Path(__file__).resolve().parents[1] / "tasks"
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_]{0,47}")


@dataclass(frozen=True, slots=True)
class Task:
    """A label set and how it is learned.

    Attributes:
        name: lower-case letters, digits and underscores; names the model.
        description: one sentence for people.
        modalities: DICOM modalities of the series that it takes.
        labels: what is labelled, in channel order.
        series_description: regular expression that a series description must contain; empty = any.
        rare: names of labels that are reported apart and leave the mean Dice.
        preprocess: Volume -> network input and back.
        network: which network.
        training: how it is fitted.
        predict: how it is asked.
    """

    name: str
    description: str
    modalities: tuple[str, ...]
    labels: tuple[Label, ...]
    series_description: str = ""
    rare: tuple[str, ...] = ()
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: FitConfig = field(default_factory=FitConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise InvalidTask(f"name must be lower-case letters, digits and underscores, got {self.name!r}")
        if not self.modalities:
            raise InvalidTask("modalities must name at least one DICOM modality, got none")
        schema = self.schema  # refuses names and ids that occur twice
        unknown = [name for name in self.rare if schema.find(name) is None]
        if unknown:
            raise InvalidTask(f"rare must name labels among {list(schema.names)}, got {unknown}")
        try:
            re.compile(self.series_description)
        except re.error as error:
            raise InvalidTask(f"series_description must be a regular expression: {error}") from error

    @property
    def schema(self) -> LabelSchema:
        """The labels with look-ups."""
        return LabelSchema(self.labels)

    @property
    def common_labels(self) -> tuple[str, ...]:
        """Names of the labels that count in the mean Dice: all but the rare ones."""
        rare = {name.strip().casefold() for name in self.rare}
        return tuple(name for name in self.schema.names if name.casefold() not in rare)

    def why_not(self, modality: str, series_description: str) -> str | None:
        """Why a series is not for this task, or None when it is."""
        if modality not in self.modalities:
            return f"task {self.name} takes {', '.join(self.modalities)}, the series is {modality or 'of none'}"
        if not re.search(self.series_description, series_description, re.IGNORECASE):
            return f"task {self.name} takes descriptions like {self.series_description!r}, got {series_description!r}"
        return None


def load_task(name_or_path: str | Path) -> Task:
    """Read a task by its name in tasks/ or by the path of its file.

    Raises:
        InvalidTask: no such file, or a wrong one; names file, line, key, what was expected and what came.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = TASKS_FOLDER / f"{name_or_path}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except OSError as error:
        known = ", ".join(sorted(p.stem for p in TASKS_FOLDER.glob("*.yaml")))
        raise InvalidTask(f"no task file {path}: {error.strerror}; tasks here: {known}") from error
    except yaml.YAMLError as error:
        raise InvalidTask(f"{path} is no valid YAML: {error}") from error
    return build(Task, tree, InvalidTask, lambda keys: f"{path.name}:{_line(root, keys)}")


def task_dict(task: Task) -> dict[str, Any]:
    """The task as plain values, as its file would hold them."""
    return asdict(task)


def _line(node: yaml.Node | None, keys: KeyPath) -> int:
    """Line, from 1, of the deepest node along `keys` that stands in the file."""
    line = node.start_mark.line + 1 if node is not None else 1
    for key in keys:
        child = _child(node, key)
        if child is None:
            break
        line, node = child
    return line


def _child(node: yaml.Node | None, key: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == str(key):
                return name.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line + 1, node.value[key]
    return None
