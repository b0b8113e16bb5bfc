import time

import numpy as np
import pytest

from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.demo.phantom import SHAPE, SPACING_MM, make_phantom

NAMES = ("spine", "liver", "spleen", "left kidney", "right kidney", "aorta", "lesion")
SCHEMA = LabelSchema(tuple(Label(name, 10 + k, (9, 9, 9), Code("1", name)) for k, name in enumerate(NAMES)))
EXPECTED_HU = {  # means of what is inside: parenchyma around the portal venous phase, spongy and cortical bone
    "spine": (130, 420),
    "liver": (85, 135),
    "spleen": (95, 150),
    "left kidney": (110, 220),
    "right kidney": (110, 220),
    "aorta": (115, 215),
    "lesion": (35, 85),
}
EXPECTED_ML = {
    "spine": (150, 450),
    "liver": (700, 2200),
    "spleen": (60, 330),
    "left kidney": (60, 320),
    "right kidney": (60, 320),
    "aorta": (20, 120),
    "lesion": (1, 90),
}


@pytest.fixture(scope="module")
def phantoms() -> list[tuple[Volume, Mask]]:
    return [make_phantom(seed, SCHEMA, lesion=seed % 2 == 0) for seed in range(6)]


def region(mask: Mask, name: str) -> np.ndarray:
    label = mask.schema.find(name)
    assert label is not None
    return mask.array == label.id


def center_mm(mask: Mask, name: str) -> np.ndarray:
    return mask.geometry.to_lps(np.argwhere(region(mask, name))).mean(axis=0)


def test_the_same_seed_gives_the_same_voxels_and_another_seed_another_patient() -> None:
    first, second, other = (make_phantom(seed, SCHEMA) for seed in (7, 7, 8))
    assert np.array_equal(first[0].array, second[0].array)
    assert np.array_equal(first[1].array, second[1].array)
    assert (first[1].array != other[1].array).mean() > 0.02


def test_a_phantom_is_a_ct_of_64_slices_whose_middle_is_the_middle_of_the_scanner(phantoms) -> None:
    volume, mask = phantoms[0]
    assert volume.modality == "CT"
    assert volume.geometry.shape == SHAPE == (64, 128, 128)
    assert volume.geometry.spacing_mm == pytest.approx(SPACING_MM)
    assert volume.geometry.corners_mm().mean(axis=0) == pytest.approx((0, 0, 0))
    assert mask.geometry.is_close(volume.geometry)


def test_organs_lie_on_their_sides(phantoms) -> None:
    for _, mask in phantoms:
        spine_x = center_mm(mask, "spine")[0]
        assert center_mm(mask, "liver")[0] < spine_x - 30  # the patient's right is -x
        assert center_mm(mask, "right kidney")[0] < spine_x - 30
        assert center_mm(mask, "left kidney")[0] > spine_x + 30
        assert center_mm(mask, "spleen")[0] > spine_x + 50
        assert 0 < center_mm(mask, "aorta")[0] - spine_x < 30
        assert center_mm(mask, "aorta")[1] < center_mm(mask, "spine")[1] - 20  # in front of it
        assert center_mm(mask, "liver")[2] > center_mm(mask, "right kidney")[2]


def test_every_label_has_the_attenuation_and_the_size_of_its_organ(phantoms) -> None:
    for seed, (volume, mask) in enumerate(phantoms):
        for name in NAMES if seed % 2 == 0 else NAMES[:-1]:
            inside = region(mask, name)
            low, high = EXPECTED_HU[name]
            assert low < volume.array[inside].mean() < high, (seed, name)
            low, high = EXPECTED_ML[name]
            assert low < inside.sum() * volume.geometry.voxel_volume_mm3 / 1000 < high, (seed, name)


def test_hu_are_whole_numbers_from_air_to_bone(phantoms) -> None:
    for volume, _ in phantoms:
        assert np.array_equal(volume.array, np.rint(volume.array))
        assert volume.array.min() >= -1024
        assert 350 < np.percentile(volume.array, 99.9) < 1500
        assert np.median(volume.array[:, :12, :]) == pytest.approx(-1000, abs=15)  # the air in front
        assert 0.02 < ((volume.array > -130) & (volume.array < -70)).mean() < 0.4  # fat


def test_neighbouring_organs_differ_less_than_the_tissue_varies_with_noise(phantoms) -> None:
    volume, mask = phantoms[1]
    liver, spleen = volume.array[region(mask, "liver")], volume.array[region(mask, "spleen")]
    assert abs(liver.mean() - spleen.mean()) < 2 * liver.std()  # a threshold alone cannot tell them apart
    assert 8 < liver.std() < 35


def test_edges_have_partial_volume(phantoms) -> None:
    volume, mask = phantoms[1]
    kidney = region(mask, "left kidney")
    row = np.flatnonzero(kidney.any(axis=(0, 2)))[0]
    assert kidney[:, row].any()
    edge = volume.array[kidney] < 60  # between fat at -100 and parenchyma at 170
    assert 0.01 < edge.mean() < 0.4


def test_a_lesion_lies_in_the_liver_only_when_asked_for(phantoms) -> None:
    for seed, (_, mask) in enumerate(phantoms):
        assert bool(mask.voxels()["lesion"]) == (seed % 2 == 0)
    _, mask = phantoms[0]
    assert center_mm(mask, "lesion")[0] < center_mm(mask, "spine")[0]


def test_about_a_quarter_of_the_patients_has_a_lesion_when_nobody_says_who() -> None:
    from lib.demo.patient import draw_patient

    sick = [bool(draw_patient(np.random.default_rng(seed)).lesions) for seed in range(400)]
    assert np.mean(sick) == pytest.approx(0.25, abs=0.07)


def test_labels_that_the_schema_does_not_name_stay_background() -> None:
    liver_only = LabelSchema((Label("Liver", 3, (1, 2, 3), Code("1", "liver")),))
    _, mask = make_phantom(2, liver_only, lesion=False)
    _, full = make_phantom(2, SCHEMA, lesion=False)
    assert np.array_equal(mask.array == 3, region(full, "liver"))


def test_a_phantom_is_made_in_a_second_or_two() -> None:
    start = time.process_time()
    make_phantom(11, SCHEMA)
    assert time.process_time() - start < 2.0
