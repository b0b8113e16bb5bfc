import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from lib.core.errors import GeometryMismatch, TrainingFailed
from lib.core.geometry import Geometry
from lib.core.labels import LabelSchema
from lib.core.values import Mask, Volume
from lib.inference.config import PreprocessConfig
from lib.inference.preprocess import Preprocess
from lib.training.data import Case, Pick, PreparedCase, TrainingSet, prepare
from lib.training.fit import validate

MakeCase = Callable[[int], Case]


def prepared(slices: int, rows: int = 8, columns: int = 8) -> PreparedCase:
    planes = np.arange(slices, dtype=np.float16)[:, None, None] * np.ones((1, rows, columns), dtype=np.float16)
    return PreparedCase(planes, np.zeros((slices, rows, columns), dtype=np.uint8))


def test_a_case_whose_mask_lies_on_another_grid_is_refused(make_case: MakeCase, schema: LabelSchema) -> None:
    other = Geometry.from_spacing((6, 32, 32), (3.0, 1.0, 1.2))
    with pytest.raises(GeometryMismatch, match="the mask of case liver 3 must lie on the grid"):
        Case(make_case(1).volume, Mask(np.zeros((6, 32, 32)), other, schema), name="liver 3")


def test_a_slice_comes_with_its_neighbours_and_its_own_classes() -> None:
    case = prepared(4)
    case.classes[2, 1, 1] = 3
    data = TrainingSet([case], classes=4, crop=(8, 8), context=1)
    images, classes = data.batch([Pick(0, 0, (0, 0)), Pick(0, 2, (0, 0)), Pick(0, 3, (0, 0))])
    assert images[:, :, 4, 4].tolist() == [[0, 0, 1], [1, 2, 3], [2, 3, 3]]
    assert np.argwhere(classes.numpy()).tolist() == [[1, 1, 1]]
    assert classes[1, 1, 1] == 3


def test_a_crop_shows_its_window_and_beyond_the_plane_the_lowest_intensity_without_label() -> None:
    case = prepared(1, rows=4, columns=6)
    case.planes[0] = np.arange(24).reshape(4, 6)
    case.classes[0] = 1
    images, classes = case.cut(0, (-1, 4), (3, 4), context=0)
    assert images[0].tolist() == [[0, 0, 0, 0], [4, 5, 0, 0], [10, 11, 0, 0]]
    assert classes.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_labels_are_drawn_alike_however_rare_and_crops_hold_what_was_drawn() -> None:
    common, rare = prepared(40, 16, 16), prepared(40, 16, 16)
    common.classes[:, 2, 3] = 1
    rare.classes[7, 12, 13] = 2
    data = TrainingSet([common, rare], classes=3, crop=(8, 8), context=0)
    picks = data.draw(np.random.default_rng(0), 600, foreground=1.0)
    _, classes = data.batch(picks)
    shown = Counter(int(plane.max()) for plane in classes)
    assert set(shown) == {1, 2}
    assert abs(shown[2] - 300) < 60  # one slice of 80, half of the draws
    assert {pick.number for pick in picks if pick.case == 1} == {7}
    assert len({pick.corner for pick in picks if pick.case == 1}) > 5


def test_without_foreground_all_slices_of_all_cases_are_drawn_alike() -> None:
    data = TrainingSet([prepared(30), prepared(10)], classes=2, crop=(8, 8), context=0)
    picks = data.draw(np.random.default_rng(0), 800, foreground=0.0)
    assert abs(sum(pick.case == 0 for pick in picks) - 600) < 50
    assert len({(pick.case, pick.number) for pick in picks}) == 40


def test_the_same_generator_draws_the_same_batch() -> None:
    data = TrainingSet([prepared(9)], classes=2, crop=(4, 4), context=0)
    draws = [data.draw(np.random.default_rng((5, 6)), 8, 0.5) for _ in range(2)]
    assert draws[0] == draws[1]
    assert draws[0] != data.draw(np.random.default_rng((5, 7)), 8, 0.5)


def test_the_crop_is_the_largest_plane_or_the_wanted_one_up_to_the_stride(make_case: MakeCase) -> None:
    preprocess = Preprocess(PreprocessConfig(spacing_mm=0.8), context_slices=1, stride=8)
    shares: list[float] = []
    assert prepare([make_case(1)], preprocess, None, shares.append).crop == (40, 40)
    assert prepare([make_case(1)], preprocess, (20, 17), shares.append).crop == (24, 24)
    assert shares == [1.0, 1.0]


def test_the_fingerprint_follows_every_voxel_and_label() -> None:
    first, second, third = prepared(3), prepared(3), prepared(3)
    second.planes[1, 2, 3] += 1
    third.classes[1, 2, 3] = 1
    prints = {TrainingSet([case], 2, (8, 8), 0).fingerprint() for case in (first, second, third, prepared(3))}
    assert len(prints) == 3


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
