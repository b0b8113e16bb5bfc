"""Trees of plain values (YAML, environment) to frozen dataclasses; unknown keys are refused."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from lib.core.errors import InvalidInput

T = TypeVar("T")
Path = tuple[str | int, ...]


def build(cls: type[T], tree: object, error: type[InvalidInput], locate: Callable[[Path], str]) -> T:
    """An instance of the dataclass `cls` from nested mappings and lists.

    Args:
        cls: a frozen dataclass, its fields may be dataclasses.
        tree: what was read.
        error: raised when the tree does not fit.
        locate: says in words where a path of keys stands, for the message.

    Raises:
        InvalidInput: of the type `error`; names place, key, what was expected and what came.
    """
    try:
        built = TypeAdapter(cls).validate_python(tree)
    except ValidationError as wrong:
        raise error("; ".join(_in_words(e, locate) for e in wrong.errors())) from wrong
    unknown = list(unknown_keys(tree, asdict(built)))  # type: ignore[call-overload]
    if unknown:
        raise error("; ".join(f"{locate(path)}: unknown key {dotted(path)!r}" for path in unknown))
    return built


def unknown_keys(given: object, built: object, path: Path = ()) -> Iterator[Path]:
    """Paths of keys in `given` that did not find a field in `built`."""
    if isinstance(given, Mapping) and isinstance(built, Mapping):
        for key, value in given.items():
            if key not in built:
                yield (*path, key)
            else:
                yield from unknown_keys(value, built[key], (*path, key))
    elif isinstance(given, (list, tuple)) and isinstance(built, Sequence):
        for index, (left, right) in enumerate(zip(given, built, strict=False)):
            yield from unknown_keys(left, right, (*path, index))


def dotted(path: Path) -> str:
    """The path as it is written with --conf: a.b.0."""
    return ".".join(map(str, path))


def _in_words(problem: Mapping[str, object], locate: Callable[[Path], str]) -> str:
    path: Path = problem["loc"]  # type: ignore[assignment]
    message, came = str(problem["msg"]).removeprefix("Value error, "), problem["input"]
    shown = "" if problem["type"] in ("missing", "value_error") else f", got {came!r}"
    return f"{locate(path)}: {dotted(path) or 'file'}: {message}{shown}"
