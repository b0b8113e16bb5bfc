"""Which packages of a lock file are missing here or have another version; the standard library and packaging alone."""

import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned package.

    Attributes:
        name: its normalised name.
        wanted: the pinned version.
        found: the installed version, "" when it is missing.
    """

    name: str
    wanted: str
    found: str

    @property
    def met(self) -> bool:
        """Whether the pinned version is there; a local build tag such as +cpu does not count."""
        return self.found.partition("+")[0] == self.wanted.partition("+")[0]


def read_pins(lock: str) -> tuple[Pin, ...]:
    """The pins of a lock file that apply to this interpreter, in its order.

    Args:
        lock: text of a requirements file, one `name==version` a line; paths, options and comments are passed over.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    pins = []
    for line in lock.splitlines():
        text = line.partition(" #")[0].strip()
        if "==" not in text or text.startswith(("#", "-", ".")):
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            name = canonicalize_name(requirement.name)
            wanted = next(iter(requirement.specifier)).version
            pins.append(Pin(name, wanted, installed.get(name, "")))
    return tuple(pins)


def main() -> int:
    """Print each package that is missing or differs; 1 when there is one."""
    unmet = [pin for pin in read_pins(Path(sys.argv[1]).read_text(encoding="utf-8")) if not pin.met]
    for pin in unmet:
        print(f"setup: {pin.name} {pin.found or 'is missing'}, wanted {pin.wanted}")
    return 1 if unmet else 0


if __name__ == "__main__":
    sys.exit(main())
