import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lib.core.errors import GeometryMismatch, InvalidMask, InvalidVolume, TrainingFailed
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.inference.preprocess import Preprocess
from lib.training.data import Case, Coverage, PreparedCase, TrainingSet, prepare
from lib.training.losses import IGNORE
from lib.training.measure import validate
from lib.training.sampling import Pick

MakeCase = Callable[[int], Case]


def prepared(slices: int, rows: int = 8, columns: int = 8) -> PreparedCase:
    planes = np.arange(slices, dtype=np.float16)[:, None, None] * np.ones((1, rows, columns), dtype=np.float16)
    return PreparedCase(planes, np.zeros((slices, rows, columns), dtype=np.uint8), name=f"of {slices}")


def test_a_case_whose_mask_lies_on_another_grid_is_refused(make_case: MakeCase, schema: LabelSchema) -> None:
    other = Geometry.from_spacing((6, 32, 32), (3.0, 1.0, 1.2))
    with pytest.raises(GeometryMismatch, match="the mask of case liver 3 must lie on the grid"):
        Case(make_case(1).volume, Mask(np.zeros((6, 32, 32)), other, schema), name="liver 3")


def test_labels_outside_the_schema_are_refused(schema: LabelSchema) -> None:
    with pytest.raises(InvalidMask, match=r"label ids must be 0 or among \(5, 3\), got \[4\]"):
        Mask(np.full((2, 4, 4), 4), Geometry.from_spacing((2, 4, 4), (1.0, 1.0, 1.0)), schema)


def test_a_slice_comes_with_its_neighbours_and_its_own_classes() -> None:
    case = prepared(4)
    case.classes[2, 1, 1] = 3
    data = TrainingSet([case], classes=4, window=(1, 8, 8), context=1)
    batch = data.batch([Pick(0, (0, 0, 0)), Pick(0, (2, 0, 0)), Pick(0, (3, 0, 0))])
    assert batch.images[:, :, 4, 4].tolist() == [[0, 0, 1], [1, 2, 3], [2, 3, 3]]
    assert np.argwhere(batch.classes.numpy()).tolist() == [[1, 1, 1]]
    assert batch.classes[1, 1, 1] == 3
    assert batch.covered.all()
    assert batch.names == ("of 4",) * 3


def test_a_crop_shows_its_window_and_beyond_the_plane_the_lowest_intensity_without_label() -> None:
    case = prepared(1, rows=4, columns=6)
    case.planes[0] = np.arange(24).reshape(4, 6)
    case.classes[0] = 1
    images, classes = case.cut((0, -1, 4), (1, 3, 4), context=0)
    assert images[0].tolist() == [[0, 0, 0, 0], [4, 5, 0, 0], [10, 11, 0, 0]]
    assert classes.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_a_patch_shows_its_window_and_beyond_the_planes_the_lowest_intensity_without_label() -> None:
    case = prepared(3, rows=2, columns=2)
    case.planes[:] += 5
    case.classes[:] = 1
    batch = TrainingSet([case], classes=2, window=(2, 2, 3), context=None).batch(
        [Pick(0, (2, 0, -1)), Pick(0, (0, 0, 0))]
    )
    assert batch.images.shape == (2, 1, 2, 2, 3)
    assert batch.images[0, 0].tolist() == [[[7, 7, 7]] * 2] * 2
    assert batch.images[1, 0, :, 0].tolist() == [[5, 5, 5], [6, 6, 5]]
    assert batch.classes[0].tolist() == [[[0, 1, 1]] * 2, [[0, 0, 0]] * 2]
    assert batch.classes[1].tolist() == [[[1, 1, 0]] * 2] * 2


def test_the_crop_is_the_median_plane_or_the_wanted_one_up_to_the_stride(make_case: MakeCase) -> None:
    preprocess = Preprocess(PreprocessConfig(spacing_mm=0.8), context_slices=1, stride=8)
    shares: list[float] = []
    assert prepare([make_case(1)], preprocess, None, shares.append).window == (1, 40, 40)
    assert prepare([make_case(1)], preprocess, (20, 17), shares.append).window == (1, 24, 24)
    assert shares == [1.0, 1.0]
    cases = [smaller(make_case(1), *size) for size in ((32, 32), (24, 18), (24, 18))]
    assert prepare(cases, preprocess, None, shares.append).window == (1, 32, 24)  # 24 and 18 mm are 30 and 23 pixels
    assert prepare(cases[:2], preprocess, None, shares.append).window == (1, 40, 40)  # a size that occurs


def smaller(case: Case, rows: int, columns: int) -> Case:
    """The first rows and columns of a case."""
    geometry = Geometry.from_spacing((6, rows, columns), (3.0, 1.0, 1.0))
    volume = Volume(case.volume.array[:, :rows, :columns], geometry, "MR")
    mask = Mask(case.mask.array[:, :rows, :columns], geometry, case.mask.schema)
    return Case(volume, mask, case.patient, case.name)


def test_patches_have_the_size_of_the_network_whatever_the_crop(make_case: MakeCase) -> None:
    preprocess = Preprocess(PreprocessConfig(), context_slices=0, stride=1, patch=(8, 16, 40))
    data = prepare([make_case(1)], preprocess, (20, 17), lambda _: None)
    assert data.window == (8, 16, 40)
    assert data.cases[0].classes.shape == (8, 32, 40)  # padded where the volume is smaller
    batch = data.batch(data.sampler.draw(np.random.default_rng(0), 3, 0.5, 1.0))
    assert batch.images.shape == (3, 1, 8, 16, 40)
    assert batch.classes.shape == (3, 8, 16, 40)


def test_the_fingerprint_follows_every_voxel_and_label() -> None:
    first, second, third = prepared(3), prepared(3), prepared(3)
    second.planes[1, 2, 3] += 1
    third.classes[1, 2, 3] = 1
    prints = {TrainingSet([case], 2, (1, 8, 8), 0).fingerprint() for case in (first, second, third, prepared(3))}
    assert len(prints) == 3
    partial = replace(prepared(3), covered=np.array([True, False]))
    assert TrainingSet([partial], 2, (1, 8, 8), 0).fingerprint() not in prints


class Counted(Sequence[Case]):
    """Cases made when they are asked for, which counts those that are alive at once."""

    def __init__(self, make_case: MakeCase, count: int) -> None:
        self.make_case, self.count = make_case, count
        self.asked: list[int] = []
        self.alive = self.most = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Case:
        if number >= self.count:
            raise IndexError(number)
        self.alive += 1  # counts from here: the one before must have gone by now
        self.most = max(self.most, self.alive)
        self.asked.append(number)
        case = self.make_case(number)
        weakref.finalize(case.volume.array, self._gone)
        return case

    def _gone(self) -> None:
        self.alive -= 1


def test_each_case_is_asked_for_in_turn_and_none_is_kept(make_case: MakeCase) -> None:
    cases = Counted(make_case, 4)
    data = prepare(cases, Preprocess(PreprocessConfig(), context_slices=0, stride=8), None, lambda _: None)
    assert cases.asked == [0, 0, 1, 2, 3]  # the first one once more for its labels
    assert (cases.most, cases.alive) == (1, 0)
    assert len(data.cases) == 4


def test_cases_are_measured_one_at_a_time(make_case: MakeCase) -> None:
    class Echo:
        """Finds nothing, whatever it is shown."""

        def __init__(self, schema: LabelSchema) -> None:
            self.schema = schema

        def predict(self, volume: Volume) -> object:
            mask = Mask(np.zeros(volume.geometry.shape, np.uint8), volume.geometry, self.schema)
            return SimpleNamespace(mask=mask)

    cases = Counted(make_case, 3)
    dice = validate(Echo(make_case(0).mask.schema), cases)
    assert set(dice.values()) <= {0.0, None}
    assert cases.asked == [0, 1, 2]
    assert (cases.most, cases.alive) == (1, 0)


def test_a_case_with_other_labels_is_refused_by_name(make_case: MakeCase) -> None:
    case = make_case(1)
    fewer = LabelSchema(tuple(case.mask.schema)[:1])
    other = Case(case.volume, Mask(np.zeros(case.mask.array.shape), case.volume.geometry, fewer), name="other")
    preprocess = Preprocess(PreprocessConfig(), context_slices=0, stride=8)
    with pytest.raises(TrainingFailed, match=r"all cases must have the labels .*, case other has"):
        prepare([case, other], preprocess, None, lambda _: None)


def test_slices_that_an_annotation_does_not_cover_become_ignored_in_any_reading_direction(
    make_case: MakeCase, schema: LabelSchema
) -> None:
    case = make_case(1)
    flipped = Geometry((6, 32, 32), np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-3, 0, 0, 0], [0, 0, 0, 1.0]]))
    coverage = Coverage(slices=(True, True, False, True, True, True))
    for geometry, ignored in ((case.volume.geometry, 2), (flipped, 3)):
        partial = Case(
            Volume(case.volume.array, geometry, "MR"), Mask(case.mask.array, geometry, schema), "p", "p", coverage
        )
        data = prepare([partial], Preprocess(PreprocessConfig(), 0, 8), None, lambda _: None)
        classes = data.cases[0].classes
        assert (classes[ignored] == IGNORE).all()
        assert (np.delete(classes, ignored, axis=0) < 3).all()
        assert {pick.corner[0] for pick in data.sampler.draw(np.random.default_rng(0), 100, 0.5, 1.0)} == (
            {*range(6)} - {ignored}
        )


def test_resampled_slices_are_ignored_where_their_nearest_slice_is_not_covered(make_case: MakeCase) -> None:
    partial = replace(make_case(1), coverage=Coverage(slices=(True, True, True, False, False, False)))
    preprocess = Preprocess(PreprocessConfig(spacing_mm=(1.5, 1.0, 1.0)), 0, 1, patch=(14, 32, 32))
    classes = prepare([partial], preprocess, None, lambda _: None).cases[0].classes
    assert (classes == IGNORE).all(axis=(1, 2)).tolist() == [False] * 7 + [True] * 6 + [False]  # 12 in 14 planes


def test_labels_that_an_annotation_does_not_cover_travel_with_its_pictures(make_case: MakeCase) -> None:
    whole, source = make_case(1), make_case(2)
    only_dark = Mask(np.where(source.mask.array == 3, 3, 0), source.mask.geometry, source.mask.schema)
    partial = Case(source.volume, only_dark, "2", "c2", Coverage(labels=("dark",)))
    data = prepare([whole, partial], Preprocess(PreprocessConfig(), 0, 8), None, lambda _: None)
    batch = data.batch([Pick(1, (2, 0, 0)), Pick(0, (2, 0, 0))])
    assert batch.covered.tolist() == [[True, False, True], [True, True, True]]


@pytest.mark.parametrize(
    ("coverage", "message"),
    [
        (Coverage(labels=("grey",)), r"the coverage of case c1 must name labels among .*, got \['grey'\]"),
        (Coverage(slices=(True,)), "the coverage of case c1 must tell of 6 slices, got 1"),
        (Coverage(labels=("dark",)), r"the mask of case c1 must hold no labels but \['dark'\], got \['bright'\]"),
    ],
)
def test_a_coverage_that_does_not_fit_its_mask_is_refused(
    coverage: Coverage, message: str, make_case: MakeCase
) -> None:
    with pytest.raises(InvalidMask, match=message):
        replace(make_case(1), coverage=coverage)


def test_samples_are_slices_for_slices_and_cases_for_patches() -> None:
    first, second = prepared(4), prepared(6)
    first.classes[1:3, 0, 0] = 1
    second.classes[:, 1, 1] = 2
    second.classes[5, 0, 0] = 1
    of_slices = TrainingSet([first, second], classes=4, window=(1, 8, 8), context=0)
    assert of_slices.counts() == ((3, 6, 0), 10)
    of_patches = TrainingSet([first, second], classes=4, window=(2, 8, 8), context=None)
    assert of_patches.counts() == ((2, 1, 0), 2)


def test_a_label_that_no_case_shows_is_named_in_a_warning(
    make_case: MakeCase, schema: LabelSchema, caplog: pytest.LogCaptureFixture
) -> None:
    case = make_case(1)
    only_dark = Mask(np.where(case.mask.array == 3, 3, 0), case.mask.geometry, schema)
    prepare([Case(case.volume, only_dark)], Preprocess(PreprocessConfig(), 0, 8), None, lambda _: None)
    assert "none of the 1 cases shows bright: the model will not find it" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(value: float, make_case: MakeCase) -> None:
    case = make_case(1)
    array = case.volume.array.copy()
    array[1, 2, 3] = value
    with pytest.raises(InvalidVolume, match="all voxels must be finite, got 1 of 6144 that are NaN or infinite"):
        Volume(array, case.volume.geometry, "MR")
