"""The settings of one installation: defaults < YAML file < environment < --conf.

Every option stands with its unit in config/default.yaml, the one place of defaults. An own YAML file is named by
TRANSUNET_CONFIG. The environment sets an option as TRANSUNET_<SECTION>__<KEY>, for example
TRANSUNET_ARCHIVE__URL; secrets come from there alone.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lib.core.errors import InvalidSettings
from lib.dicom.config import ArchiveConfig
from lib.inference.config import InferenceConfig, UncertaintyConfig
from lib.ledger.config import LedgerConfig
from lib.registry.config import RegistryConfig
from lib.selection.config import SAMPLED, SelectionConfig
from lib.server.config import ServerConfig
from lib.strict import build, dotted
from lib.workflows.config import (
    ExecutorConfig,
    FieldConfig,
    GateConfig,
    IngestConfig,
    PresegmentConfig,
    QueryConfig,
    RecipeConfig,
    RetrainConfig,
    ReviewConfig,
    WorkerConfig,
)

APP_FOLDER = Path(__file__).resolve().parents[1]
ROOT = APP_FOLDER.parents[1]
DEFAULTS = APP_FOLDER / "config" / "default.yaml"
PREFIX = "TRANSUNET_"
SECRETS = ("archive.password", "server.password", "ledger.pseudonym_key")
URLS = ("ledger.url", "registry.uri")
"""These may hold a password."""
SHORT = {"TRANSUNET_VAR": "var", "TRANSUNET_TASKS": "tasks"}

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """All options of one installation.

    Attributes:
        var: folder of all state.
        tasks: names or paths of the task files that are served; the first one is the default.

    Raises:
        InvalidSettings: options that do not go together.
    """

    var: Path
    tasks: tuple[str, ...]
    archive: ArchiveConfig
    ledger: LedgerConfig
    registry: RegistryConfig
    inference: InferenceConfig
    uncertainty: UncertaintyConfig
    ingest: IngestConfig
    presegment: PresegmentConfig
    review: ReviewConfig
    query: QueryConfig
    selection: SelectionConfig
    retrain: RetrainConfig
    executor: ExecutorConfig
    recipe: RecipeConfig
    gate: GateConfig
    field: FieldConfig
    worker: WorkerConfig
    server: ServerConfig

    def __post_init__(self) -> None:
        for option, name in (("query.strategy", self.query.strategy), ("selection.quantity", self.selection.quantity)):
            if name in SAMPLED and self.uncertainty.kind == "entropy":
                raise InvalidSettings(
                    f"{option} {name} needs samples: set uncertainty.kind to dropout, tta or ensemble, got entropy"
                )


def load_settings(
    conf: Iterable[tuple[str, str]] = (), environ: Mapping[str, str] | None = None, path: Path | None = None
) -> Settings:
    """Compose the settings.

    Args:
        conf: pairs ("section.key", value) of the command line.
        environ: the environment; os.environ when None.
        path: the installation's own YAML file; TRANSUNET_CONFIG of the environment when None.

    Raises:
        InvalidSettings: an unknown option or a wrong value; names the option and where it came from.
    """
    environ = os.environ if environ is None else environ
    origin: dict[str, str] = {}
    tree = _read_yaml(DEFAULTS)
    own = path or (Path(environ["TRANSUNET_CONFIG"]) if environ.get("TRANSUNET_CONFIG") else None)
    if own is not None:
        refuse_secrets(str(own), own_tree := _read_yaml(own))
        _merge(tree, own_tree, str(own), origin)
    for source, pairs in (("environment", _from_environment(environ)), ("--conf", conf)):
        for key, text in pairs:
            _merge(tree, nested(key, _value(tree, key, text)), f"{source} ({key})", origin)
    if "var" not in origin:  # not where the command happens to run: cron would start a second, empty installation
        tree["var"] = ROOT / tree["var"]
    tree["var"] = str(Path(tree["var"]).expanduser().resolve())
    return build(Settings, tree, InvalidSettings, lambda keys: origin.get(dotted(keys), DEFAULTS.name))


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InvalidSettings(f"{path} must be a readable YAML file: {error}") from error
    if not isinstance(tree, dict):
        raise InvalidSettings(f"{path} must hold sections with keys, got {type(tree).__name__}")
    return tree


def _from_environment(environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, text in sorted(environ.items()):
        if name in SHORT:
            yield SHORT[name], text
        elif name.startswith(PREFIX) and "__" in name:
            yield name.removeprefix(PREFIX).lower().replace("__", "."), text
        elif name.startswith(PREFIX) and _section(name):
            section, key = _section(name), name.removeprefix(PREFIX)
            meant = f"{PREFIX}{section}__{key.removeprefix(section).lstrip('_')}"
            raise InvalidSettings(f"{name}: two underscores part section and key; is {meant} meant?")


def _section(variable: str) -> str:
    """The section that a variable starts with, for those who wrote one underscore; "" for other variables."""
    start = variable.removeprefix(PREFIX).partition("_")[0]
    sections = (option.name.upper() for option in fields(Settings) if option.name not in SHORT.values())
    return start if start in sections and start != variable.removeprefix(PREFIX) else ""


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as variables that give a child process the very same ones; holds the secrets."""
    variables = {"TRANSUNET_CONFIG": ""}
    for name, value in asdict(settings).items():
        if isinstance(value, dict):
            variables |= {f"{PREFIX}{name}__{key}".upper(): _text(option) for key, option in value.items()}
        else:
            variables[f"{PREFIX}{name}".upper()] = _text(value)
    return variables


def _text(value: object) -> str:
    """The value as `_value` reads it back."""
    return str(value) if isinstance(value, (str, Path)) else json.dumps(value)


def _value(tree: Tree, key: str, text: str) -> object:
    """What a text means: itself where the default is a text, words between commas where it is a list, else YAML."""
    default: Any = tree
    for part in key.split("."):
        default = default.get(part) if isinstance(default, dict) else None
    if isinstance(default, str):
        return text
    value = yaml.safe_load(text)
    if isinstance(default, list) and not isinstance(value, list):
        return [word.strip() for word in text.split(",") if word.strip()]
    return value


def nested(key: str, value: object) -> Tree:
    """The option as a tree of sections, as a file would hold it."""
    head, _, rest = key.partition(".")
    return {head: nested(rest, value) if rest else value}


def _merge(tree: Tree, over: Tree, source: str, origin: dict[str, str], path: tuple[str, ...] = ()) -> None:
    """Lay `over` on `tree` in place; a key that the defaults do not have is refused."""
    for key, value in over.items():
        here = (*path, str(key))
        if key not in tree:
            known = ", ".join(sorted(tree))
            raise InvalidSettings(f"{source}: unknown option {dotted(here)!r}; known here: {known}")
        if isinstance(tree[key], dict) and isinstance(value, dict):
            _merge(tree[key], value, source, origin, here)
        else:
            tree[key] = value
            origin[dotted(here)] = source


def refuse_secrets(source: str, tree: Tree) -> None:
    """Raise InvalidSettings for a secret: in a file it ends in back-ups, on a command line in the list of processes."""
    for name in (*SECRETS, *URLS):
        section, _, key = name.partition(".")
        value = tree.get(section, {}).get(key) if isinstance(tree.get(section), dict) else None
        if value and (name in SECRETS or urlsplit(str(value)).password):
            variable = f"{PREFIX}{section.upper()}__{key.upper()}"
            raise InvalidSettings(f"{source}: {name} holds a secret; set it in the environment as {variable}")
