"""What a task can label: names, ids, colours and coded terms."""

from collections.abc import Iterator
from dataclasses import dataclass

from lib.core.errors import InvalidInput

MAX_LABEL_ID = 255
BACKGROUND = 0


@dataclass(frozen=True, slots=True)
class Code:
    """A coded term of DICOM.

    Attributes:
        value: the code, for SNOMED CT its concept id.
        meaning: the term in words.
        scheme: the coding scheme designator, SCT for SNOMED CT.
    """

    value: str
    meaning: str
    scheme: str = "SCT"


ANATOMICAL_STRUCTURE = Code("91723000", "Anatomical Structure")


@dataclass(frozen=True, slots=True)
class Label:
    """One anatomical class.

    Attributes:
        name: the name that viewers show and that maps segments back; unique without regard to case.
        id: the value of its voxels in a mask, 1 to 255; 0 is background.
        color: red, green, blue, each 0 to 255.
        code: what it is, as a coded term (segmented property type).
        category: what kind of thing it is (segmented property category).
    """

    name: str
    id: int
    color: tuple[int, int, int]
    code: Code
    category: Code = ANATOMICAL_STRUCTURE

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > 64:
            raise InvalidInput(f"a label needs a name of 1 to 64 characters, got {self.name!r}")
        if not 1 <= self.id <= MAX_LABEL_ID:
            raise InvalidInput(f"the id of label {self.name!r} must be 1 to {MAX_LABEL_ID}, got {self.id}")
        if len(self.color) != 3 or not all(0 <= c <= 255 for c in self.color):
            raise InvalidInput(f"the color of label {self.name!r} must be 3 numbers from 0 to 255, got {self.color}")


@dataclass(frozen=True, slots=True)
class LabelSchema:
    """The labels of a task, in the order of the network's output channels (after background).

    Raises:
        InvalidInput: no label, a name or an id that occurs twice.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        if not self.labels:
            raise InvalidInput("a label schema needs at least one label, got none")
        for what, values in (("id", self.ids), ("name", tuple(n.casefold() for n in self.names))):
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice:
                raise InvalidInput(f"each label needs its own {what}, got {', '.join(twice)} twice")

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ids(self) -> tuple[int, ...]:
        """Voxel values, in channel order."""
        return tuple(label.id for label in self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in channel order."""
        return tuple(label.name for label in self.labels)

    def find(self, name: str) -> Label | None:
        """The label of that name without regard to case and surrounding blanks, or None."""
        wanted = name.strip().casefold()
        return next((label for label in self.labels if label.name.casefold() == wanted), None)
