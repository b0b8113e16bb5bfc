"""Who may import whom, read from the source with ast; nothing is imported.

`python tests/architecture.py` prints each forbidden import of the tree and ends with status 1 if there is one.
The tables below are those of the architecture page: rooms, third parties, and what may only be imported late.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

LIB = Path(__file__).resolve().parents[1] / "apps" / "radiology_transunet" / "lib"

MODELLING = frozenset({"training", "inference", "networks"})
BELOW_WORKFLOWS = MODELLING | {"dicom", "selection", "ledger", "registry"}
COMPOSERS = frozenset({"settings", "taskfile"})
TOP = COMPOSERS | {"strict"}  # strict: trees of plain values to dataclasses, for the composers

ROOMS: Mapping[str, frozenset[str]] = {
    "core": frozenset(),
    "networks": frozenset(),
    "inference": frozenset({"networks"}),
    "training": frozenset({"inference", "networks"}),
    "dicom": frozenset(),
    "selection": frozenset(),
    "ledger": frozenset(),
    "registry": frozenset(),
    "demo": frozenset({"dicom"}),
    "workflows": BELOW_WORKFLOWS | COMPOSERS,
    "server": BELOW_WORKFLOWS | COMPOSERS | {"workflows"},
    "cli": BELOW_WORKFLOWS | COMPOSERS | {"workflows", "demo"},
}
"""What each room may import besides itself and core, which anyone may import."""

THIRD_PARTY: Mapping[str, tuple[str, ...]] = {
    "monailabel": ("server",),
    "pydicom": ("dicom",),
    "highdicom": ("dicom",),
    "nibabel": ("dicom",),
    "dicomweb_client": ("dicom",),
    "pyorthanc": ("dicom",),
    "torch": ("networks", "inference", "training"),
    "torchvision": ("networks", "inference", "training"),
    "einops": ("networks", "inference", "training"),
    "monai": ("networks.peers", "training"),
    "openvino": ("inference.backends",),
    "nncf": ("inference.backends",),
    "onnx": ("inference.backends",),
    "sklearn": ("selection", "inference.quality"),
    "sqlalchemy": ("ledger",),
    "alembic": ("ledger",),
    "mlflow": ("registry",),
    "ray": ("workflows.executor",),
    "fastapi": ("server",),
    "starlette": ("server",),
    "httpx": ("server",),
}
"""Where below lib a package may be imported; packages that are not named are free outside core."""

INSIDE_FUNCTIONS_ONLY = frozenset({"monai", "mlflow"})
CORE_MAY_USE = frozenset({"numpy", "scipy"})
CLI_MODULE_LEVEL = frozenset({"typer", "rich", "click"})
WITHOUT_PYDICOM = "nibabel"
DICOM_PACKAGES = frozenset({"pydicom", "highdicom", "dicomweb_client", "pyorthanc"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, with the place that names it."""

    importer: str  # dotted, for example lib.registry.models
    target: str  # dotted, for example mlflow.tracking or lib.core.errors
    path: Path  # from the folder above lib
    line: int
    late: bool  # inside a function
    typing_only: bool  # below `if TYPE_CHECKING:`

    @property
    def runs_at_import(self) -> bool:
        """Whether importing the importer also imports the target."""
        return not self.late and not self.typing_only


@dataclass(slots=True)
class _Collector(ast.NodeVisitor):
    """Gathers the imports of one module, and how deep each one stands."""

    module: str
    path: Path
    is_package: bool
    found: list[Import] = field(default_factory=list)
    functions: int = 0
    typing_blocks: int = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._absolute(node)
        for alias in node.names:
            self._add(f"{base}.{alias.name}" if base.split(".")[0] == "lib" else base, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self._add(str(node.args[0].value), node.lineno)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        typing_only = "TYPE_CHECKING" in ast.unparse(node.test) and not isinstance(node.test, ast.UnaryOp)
        self.typing_blocks += typing_only
        for statement in node.body:
            self.visit(statement)
        self.typing_blocks -= typing_only
        self.visit(node.test)
        for statement in node.orelse:
            self.visit(statement)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Decorators and defaults run at import; the body does not."""
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.visit(node.args)
        self.functions += 1
        for statement in node.body:
            self.visit(statement)
        self.functions -= 1

    visit_FunctionDef = _visit_function  # noqa: N815
    visit_AsyncFunctionDef = _visit_function  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.functions += 1
        self.generic_visit(node)
        self.functions -= 1

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.module.split(".") if self.is_package else self.module.split(".")[:-1]
        base = package[: len(package) - node.level + 1]
        return ".".join([*base, node.module] if node.module else base)

    def _add(self, target: str, line: int) -> None:
        self.found.append(
            Import(self.module, target, self.path, line, late=self.functions > 0, typing_only=self.typing_blocks > 0)
        )


def read_imports(lib: Path) -> list[Import]:
    """Every import of every module below the folder `lib`, also those inside functions."""
    paths = sorted(lib.rglob("*.py"))
    return [found for path in paths for found in _imports(path.relative_to(lib), path.read_text(encoding="utf-8"))]


@cache  # copies of the tree with one file planted differ in that file alone
def _imports(place: Path, text: str) -> tuple[Import, ...]:
    """The imports of the module at a place below lib."""
    parts = ("lib", *place.with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    collector = _Collector(".".join(parts[:-1] if is_package else parts), "lib" / place, is_package)
    collector.visit(ast.parse(text, str(place)))
    return tuple(collector.found)


def violations(lib: Path = LIB) -> list[str]:
    """One line for each import that the architecture forbids: place, importer, target, reason."""
    imports = read_imports(lib)
    beside = "a module that uses nibabel must run without pydicom"
    reasons = [(found, reason) for found in imports for reason in _reasons(found)]
    reasons += [(found, beside) for found in _pydicom_beside_nibabel(imports)]
    lines = [f"{i.path}:{i.line}: {i.importer} -> {i.target}: {why}" for i, why in reasons]
    return [f"lib/{name}: no such room in the architecture" for name in _unknown_rooms(lib)] + lines


def _unknown_rooms(lib: Path) -> list[str]:
    rooms = {path.relative_to(lib).parts[0] for path in lib.rglob("*.py")}
    return sorted(rooms - set(ROOMS) - {f"{name}.py" for name in (*TOP, "__init__")})


def _reasons(found: Import) -> Iterator[str]:
    """Why this import is forbidden; nothing when it is allowed."""
    target = found.target.split(".")
    if target[0] == "lib":
        yield from _room_reasons(found, target)
    elif target[0] not in sys.stdlib_module_names:
        yield from _third_party_reasons(found, target[0])
    yield from _cli_reasons(found, target)


def _room_reasons(found: Import, target: list[str]) -> Iterator[str]:
    room = _room(found.importer)
    wanted = target[1] if len(target) > 1 else ""
    if wanted in ("core", room):
        return
    if room in (*TOP, ""):
        if target[2:3] != ["config"] and (room, wanted) not in {(composer, "strict") for composer in COMPOSERS}:
            yield "the top of lib composes configs: it may import core and each room's config module"
    elif wanted not in ROOMS.get(room, frozenset()):
        yield f"{room} may import {', '.join(sorted(ROOMS.get(room, frozenset()) | {'core'}))}"


def _third_party_reasons(found: Import, package: str) -> Iterator[str]:
    place = found.importer.removeprefix("lib.")
    allowed = THIRD_PARTY.get(package)
    if allowed is not None and not any(place == home or place.startswith(f"{home}.") for home in allowed):
        yield f"{package} is imported in {', '.join(allowed)} alone"
    if package in INSIDE_FUNCTIONS_ONLY and found.runs_at_import:
        yield f"{package} takes seconds: import it inside the function that needs it"
    if _room(found.importer) == "core" and package not in CORE_MAY_USE:
        yield f"core uses {', '.join(sorted(CORE_MAY_USE))} alone"


def _cli_reasons(found: Import, target: list[str]) -> Iterator[str]:
    if _room(found.importer) != "cli" or not found.runs_at_import or target[0] in sys.stdlib_module_names:
        return
    light = target[0] in CLI_MODULE_LEVEL or target[:2] == ["lib", "cli"] or target[:3] == ["lib", "core", "errors"]
    if not light:
        yield "the command line imports heavy things inside its functions"


def _pydicom_beside_nibabel(imports: Iterable[Import]) -> list[Import]:
    """Imports of nibabel by modules that also load pydicom, directly or by what they import at module level."""
    eager: dict[str, set[str]] = {}
    for found in imports:
        if found.runs_at_import:
            eager.setdefault(found.importer, set()).add(found.target)
    users = [found for found in imports if found.target.split(".")[0] == WITHOUT_PYDICOM]
    return [found for found in users if DICOM_PACKAGES & _loaded_packages(found.importer, eager)]


def _loaded_packages(module: str, eager: Mapping[str, set[str]]) -> set[str]:
    """Third-party packages that importing the module also imports."""
    seen: set[str] = set()
    packages: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if not name.startswith("lib."):
            packages.add(name.split(".")[0])
            continue
        todo += [*eager.get(name, ()), *eager.get(name.rpartition(".")[0], ())]  # `from lib.a.b import name`
    return packages


def _room(module: str) -> str:
    """The room, or the top module's name, of a dotted module below lib; empty for lib itself."""
    return module.split(".")[1] if "." in module else ""


if __name__ == "__main__":
    problems = violations(Path(sys.argv[1]) if len(sys.argv) > 1 else LIB)
    sys.stdout.write("".join(f"{line}\n" for line in problems))
    sys.exit(1 if problems else 0)
