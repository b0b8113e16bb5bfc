import numpy as np
import pytest

from lib.core.errors import InvalidSegmentation
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.server.labelnames import names_used, to_mask, value_names
from lib.server.volumefiles import LabelFile

CODE = Code("10200004", "Liver")
SCHEMA = LabelSchema((Label("liver", 2, (1, 2, 3), CODE), Label("spleen", 5, (1, 2, 3), CODE)))
GRID = Geometry.from_spacing((1, 1, 4), (1.0, 1.0, 1.0))


def file(*values: int, names: dict[int, str] | None = None) -> LabelFile:
    return LabelFile(np.array(values, dtype=np.int64).reshape(1, 1, 4), GRID, names or {})


def info(*entries: tuple[str, int]) -> list[dict[str, object]]:
    return [{"name": name, "idx": index} for name, index in entries]


def ids(label: LabelFile, entries: list[dict[str, object]]) -> list[int]:
    return to_mask(label, entries, GRID, SCHEMA).array.reshape(-1).tolist()


def test_without_names_values_are_label_ids() -> None:
    assert ids(file(0, 2, 5, 2), []) == [0, 2, 5, 2]


def test_without_names_an_unknown_value_is_refused() -> None:
    with pytest.raises(InvalidSegmentation, match=r"\[2, 5\], got 1"):
        ids(file(0, 1, 0, 0), [])


def test_slicers_places_become_ids_by_name() -> None:
    assert ids(file(0, 1, 2, 1), info(("spleen", 1), ("liver", 2))) == [0, 5, 2, 5]


def test_a_missing_first_label_does_not_shift_the_others() -> None:
    assert ids(file(0, 2, 2, 0), info(("liver", 1), ("spleen", 2))) == [0, 5, 5, 0]


def test_values_by_index_are_understood_when_places_are_not_meant() -> None:
    assert ids(file(0, 6, 0, 0), info(("spleen", 6))) == [0, 5, 0, 0]


def test_two_readings_that_disagree_are_a_question_not_a_guess() -> None:
    with pytest.raises(InvalidSegmentation, match="ambiguous"):
        ids(file(0, 2, 0, 0), info(("liver", 2), ("spleen", 3)))


def test_names_without_voxels_need_not_be_known() -> None:
    assert ids(file(0, 1, 0, 0), info(("liver", 1), ("pancreas", 2))) == [0, 2, 0, 0]


def test_an_unknown_name_with_voxels_lists_the_known_ones() -> None:
    with pytest.raises(InvalidSegmentation, match="liver, spleen; got 'pancreas'"):
        ids(file(0, 2, 0, 0), info(("liver", 1), ("pancreas", 2)))


def test_scribbles_and_background_are_nothing() -> None:
    entries = info(("liver", 1), ("background_scribbles", 2))
    assert ids(file(0, 1, 2, 2), entries) == [0, 2, 0, 0]


def test_a_value_that_nobody_named_is_refused() -> None:
    with pytest.raises(InvalidSegmentation, match="must name the voxel values"):
        value_names([9], {}, info(("liver", 1)))


def test_names_in_the_file_come_before_those_beside_it() -> None:
    label = file(1, 0, 0, 0, names={1: "SPLEEN "})
    assert ids(label, info(("liver", 1))) == [5, 0, 0, 0]
    assert names_used(label, []) == ("SPLEEN ",)
