"""Task files: one YAML a label set, from which everything else follows.

A data team starts a new label set by writing one such file in tasks/, or anywhere and naming its path.
"""

import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lib.core.errors import InvalidTask
from lib.core.labels import ANATOMICAL_STRUCTURE, Code, Label, LabelSchema
from lib.inference.config import PredictConfig, PreprocessConfig
from lib.networks.config import NetworkConfig
from lib.strict import Path as KeyPath
from lib.strict import build
from lib.training.config import FitConfig

TASKS_FOLDER = Path(__file__).resolve().parents[1] / "tasks"
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_]{0,47}")
SUFFIXES = (".yaml", ".yml")
BLOCKS = ("preprocess", "network", "training", "predict")
LINE_LENGTH = 120
COMMENT_COLUMN = 32


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
        network: which network; strides that a network of patches leaves out follow from `preprocess.spacing_mm`.
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
        object.__setattr__(self, "network", self.network.with_strides(self.preprocess.spacing_mm))

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
    if path.suffix not in SUFFIXES:
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


def write_task(task: Task, path: Path, comments: Mapping[str, str]) -> None:
    """Write a task file for people to read and edit; it appears complete or not at all.

    Args:
        task: what it says. Options that have their default and no comment are left out.
        path: of the file.
        comments: why, by dotted key such as "network.patch" or "labels.0"; "" = above everything.

    Raises:
        InvalidTask: a name that does not end in .yaml or .yml.
    """
    if path.suffix not in SUFFIXES:
        raise InvalidTask(f"a task file ends in {' or '.join(SUFFIXES)}, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    unnamed.write_text("\n".join(_task_lines(task, comments)) + "\n", encoding="utf-8")
    os.replace(unnamed, path)


def _task_lines(task: Task, comments: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(comments.get("", ""), LINE_LENGTH - 2))
    for name in ("name", "description", "modalities"):
        yield from _entry("", name, getattr(task, name), comments.get(name, ""))
    yield "labels:"
    for number, label in enumerate(task.labels):
        values = {"name": label.name, "id": label.id, "color": label.color, "code": _plain_code(label.code)}
        if label.category != ANATOMICAL_STRUCTURE:
            values["category"] = _plain_code(label.category)
        yield from _commented(f"  - {_flow(values)}", comments.get(f"labels.{number}", ""))
    for name in ("series_description", "rare"):
        if getattr(task, name):
            yield from _entry("", name, getattr(task, name), comments.get(name, ""))
    for block in BLOCKS:
        entries = list(_block(block, getattr(task, block), comments))
        yield from [f"{block}:", *entries] if entries else []


def _block(block: str, config: Any, comments: Mapping[str, str]) -> Iterator[str]:
    """Lines of the options that differ from their defaults or have a comment."""
    usual = type(config)()
    for option in fields(config):
        value, comment = getattr(config, option.name), comments.get(f"{block}.{option.name}", "")
        if comment or value != getattr(usual, option.name):
            yield from _entry("  ", option.name, asdict(value) if option.name == "augment" else value, comment)


def _entry(indent: str, key: str, value: object, comment: str) -> Iterator[str]:
    yield from _commented(f"{indent}{key}: {_flow(value)}", comment)


def _commented(line: str, comment: str) -> Iterator[str]:
    """The line with its comment behind it, or above it where that would be too long."""
    if comment and max(len(line) + 1, COMMENT_COLUMN) + 2 + len(comment) > LINE_LENGTH:
        indent = line[: len(line) - len(line.lstrip())]
        yield from (f"{indent}# {part}" for part in textwrap.wrap(comment, LINE_LENGTH - 2 - len(indent)))
        comment = ""
    yield f"{line:<{COMMENT_COLUMN - 1}} # {comment}" if comment else line


def _flow(value: object) -> str:
    """A value in one line of YAML."""
    text: str = yaml.safe_dump(_listed(value), default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _listed(value: object) -> object:
    """Tuples as lists: YAML has no tuples."""
    if isinstance(value, Mapping):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _plain_code(code: Code) -> dict[str, str]:
    scheme = {} if code.scheme == "SCT" else {"scheme": code.scheme}
    return {"value": code.value, "meaning": code.meaning, **scheme}


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
