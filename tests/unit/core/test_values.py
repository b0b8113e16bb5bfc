import numpy as np
import pytest

from lib.core.errors import GeometryMismatch, InvalidInput, InvalidMask, InvalidVolume
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import LabelEvidence, Mask, Prediction, Volume

GRID = Geometry.from_spacing((2, 3, 4), (5.0, 1.0, 1.0))
LIVER = Label("liver", 2, (221, 130, 101), Code("10200004", "Liver"))
SPLEEN = Label("Spleen", 5, (157, 108, 162), Code("78961009", "Spleen"))
SCHEMA = LabelSchema((LIVER, SPLEEN))


def zeros(shape=GRID.shape) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def test_a_volume_is_read_only_float32_and_leaves_the_callers_array_alone():
    array = np.arange(24, dtype=np.int16).reshape(GRID.shape)
    volume = Volume(array, GRID, "CT")
    assert volume.array.dtype == np.float32
    assert volume.array[1, 2, 3] == 23
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    array[0, 0, 0] = 7


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_volume_with_values_that_are_no_numbers_is_refused_with_their_count(bad):
    array = np.zeros(GRID.shape, np.float32)
    array[0, 0, :2] = bad
    with pytest.raises(InvalidVolume, match="got 2 of 24"):
        Volume(array, GRID, "MR")


def test_another_shape_than_the_grids_is_refused():
    with pytest.raises(InvalidVolume, match=r"\(2, 3, 4\), got \(2, 3, 5\)"):
        Volume(np.zeros((2, 3, 5)), GRID, "CT")
    with pytest.raises(InvalidMask, match=r"\(2, 3, 4\), got \(2, 3, 5\)"):
        Mask(zeros((2, 3, 5)), GRID, SCHEMA)


def test_a_mask_knows_only_the_ids_of_its_schema():
    array = zeros()
    array[0, 0, 0] = 3
    with pytest.raises(InvalidMask, match=r"among \(2, 5\), got \[3\]"):
        Mask(array, GRID, SCHEMA)
    fractions = np.full(GRID.shape, 0.5)
    with pytest.raises(InvalidMask, match=r"got \[0.5\]"):
        Mask(fractions, GRID, SCHEMA)


def test_a_mask_of_whole_floats_becomes_bytes():
    array = np.zeros(GRID.shape, np.float32)
    array[1] = 5
    mask = Mask(array, GRID, SCHEMA)
    assert mask.array.dtype == np.uint8
    assert mask.voxels() == {"liver": 0, "Spleen": 12}
    assert not mask.is_empty


def test_changed_voxels_count_every_voxel_whose_label_differs():
    first, second = zeros(), zeros()
    first[0, 0] = (2, 2, 5, 0)
    second[0, 0] = (2, 5, 5, 5)
    assert Mask(first, GRID, SCHEMA).changed_voxels(Mask(second, GRID, SCHEMA)) == 2
    elsewhere = Geometry.from_spacing((2, 3, 4), (5.0, 1.0, 1.0), origin_mm=(1, 0, 0))
    with pytest.raises(GeometryMismatch):
        Mask(first, GRID, SCHEMA).changed_voxels(Mask(second, elsewhere, SCHEMA))


def test_labels_are_found_without_regard_to_case():
    assert SCHEMA.find(" SPLEEN ") is SPLEEN
    assert SCHEMA.find("kidney") is None
    assert SCHEMA.ids == (2, 5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "at least one"),
        ((LIVER, Label("Liver", 3, (1, 1, 1), LIVER.code)), "own name, got liver twice"),
        ((LIVER, Label("lung", 2, (1, 1, 1), LIVER.code)), "own id, got 2 twice"),
    ],
)
def test_a_schema_without_unique_names_and_ids_is_refused(labels, message):
    with pytest.raises(InvalidInput, match=message):
        LabelSchema(labels)


@pytest.mark.parametrize(
    ("name", "number", "color"), [("", 1, (0, 0, 0)), ("a", 0, (0, 0, 0)), ("a", 256, (0, 0, 0)), ("a", 1, (0, 0, 256))]
)
def test_an_impossible_label_is_refused(name, number, color):
    with pytest.raises(InvalidInput):
        Label(name, number, color, Code("1", "a"))


def test_a_predictions_maps_lie_on_its_grid():
    mask = Mask(zeros(), GRID, SCHEMA)
    made = Prediction(mask, np.zeros(GRID.shape, np.float16), {"liver": 0.5}, np.ones(3, np.float32))
    assert made.geometry is GRID
    with pytest.raises(TypeError):
        made.scores["liver"] = 1.0
    with pytest.raises(InvalidVolume, match="entropy map"):
        Prediction(mask, np.zeros((1, 1, 1), np.float16), {}, np.ones(3, np.float32))


def test_a_prediction_without_quantities_has_those_of_its_entropy_and_its_maps_cannot_be_written():
    mask, map16 = Mask(zeros(), GRID, SCHEMA), np.zeros(GRID.shape, np.float16)
    made = Prediction(mask, map16, {"liver": 0.5}, np.ones(3, np.float32))
    assert made.quantities == {"entropy": {"liver": 0.5}}
    assert (made.volumes_ml, made.information) == ({}, None)
    evidence = {"liver": LabelEvidence(volume_ml=1.5, largest_probability=0.9)}
    full = Prediction(mask, map16, {}, np.ones(3, np.float32), {}, {"bald": {"liver": 0.1}}, evidence, map16)
    assert full.volumes_ml == {"liver": 1.5}
    with pytest.raises(TypeError):
        full.quantities["bald"]["liver"] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        full.information[0, 0, 0] = 1
    with pytest.raises(InvalidVolume, match="information map"):
        Prediction(mask, map16, {}, np.ones(3, np.float32), information=np.zeros((1, 1, 1), np.float16))
