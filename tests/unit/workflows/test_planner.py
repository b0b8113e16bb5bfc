import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.errors import InvalidInput
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Volume
from lib.dicom.nifti import write_mask, write_volume
from lib.networks.config import config_stride
from lib.networks.topology import plan_strides, side_multiples
from lib.taskfile import load_task, write_task
from lib.workflows.fingerprint import Fingerprint, Occurrence, read_fingerprint
from lib.workflows.planlabels import colour, parse_names
from lib.workflows.planner import PlanOptions, TaskPlan, plan_task, target_spacing
from lib.workflows.plansizes import Machine, sized_patch, slice_crop

SCHEMA = LabelSchema(tuple(Label(f"label {n}", n, (n, n, n), Code("1", "x")) for n in (1, 2, 9)))


def fingerprint(
    size: tuple[int, int, int],
    *spacings_mm: tuple[float, float, float],
    cases: int = 20,
    lowest: float = 0.0,
    labels: Mapping[int, Occurrence] | None = None,
) -> Fingerprint:
    """Of cases of one size, whose spacings repeat."""
    return Fingerprint(
        sizes=(size,) * cases,
        spacings_mm=tuple(spacings_mm[n % len(spacings_mm)] for n in range(cases)),
        intensities=(-57.4, -20.0, 60.0, 130.0, 210.6),
        lowest=(lowest,) * cases,
        voxels=cases * math.prod(size),
        labels=labels or {1: Occurrence(cases, 5000 * cases), 2: Occurrence(cases, 4000 * cases)},
    )


def planned(figures: Fingerprint, **options: object) -> TaskPlan:
    return plan_task(figures, PlanOptions("organs", **options))  # type: ignore[arg-type]


HIPPOCAMPUS = fingerprint((36, 50, 35), (1.0, 1.0, 1.0))
THICK_MR = fingerprint((35, 256, 256), (7.7, 1.25, 1.25))
LONG_CT = fingerprint((160, 512, 512), (2.5, 0.75, 0.75), lowest=-1024.0)


def test_small_cubes_of_one_millimetre_are_seen_whole_by_the_network_of_patches() -> None:
    task = planned(HIPPOCAMPUS).task
    assert task.network.kind == "transunet3d"
    assert task.network.patch == (40, 56, 40)  # 36 x 50 x 35, up to multiples of 8
    assert task.network.strides == ((2, 2, 2),) * 3
    assert task.preprocess.spacing_mm == (1.0, 1.0, 1.0)
    assert task.preprocess.clip_percentiles == (0.5, 99.5)
    assert (task.network.size, task.training.batch_size) == ("small", 2)
    assert task.modalities == ("MR",)


def test_few_thick_slices_go_to_the_network_of_slices() -> None:
    plan = planned(THICK_MR)
    assert (plan.task.network.kind, plan.task.network.context_slices) == ("transunet", 1)
    assert plan.task.preprocess.spacing_mm == 2.55  # within the slice alone, 125 pixels a side
    assert (plan.task.training.crop, plan.task.training.batch_size) == ((128, 128), 4)  # seen whole
    assert plan.reasons["preprocess.spacing_mm"].endswith("coarser so that two CPU cores can train in minutes")
    large = planned(THICK_MR, device_memory_gb=24.0).task
    assert (large.preprocess.spacing_mm, large.training.crop) == (1.25, (256, 256))
    assert plan.reasons["network.kind"] == "slices are 6.2 times as thick as pixels, 35 in a typical image"


def test_patches_of_thick_slices_are_flat_and_pooled_within_the_slice_first() -> None:
    task = planned(THICK_MR, dimensions="3", device_memory_gb=24.0).task
    assert task.preprocess.spacing_mm == (7.7, 1.25, 1.25)
    assert task.network.patch == (40, 256, 256)
    assert task.network.strides[:2] == ((1, 2, 2), (1, 2, 2))
    many = planned(fingerprint((90, 256, 256), (7.7, 1.25, 1.25)), device_memory_gb=24.0)
    assert many.task.network.kind == "transunet3d"
    assert "many enough for flat patches" in many.reasons["network.kind"]


def test_a_single_slice_has_no_neighbours() -> None:
    network = planned(fingerprint((1, 200, 180), (5.0, 1.0, 1.0))).task.network
    assert (network.kind, network.context_slices) == ("transunet", 0)


def test_a_device_gets_the_published_size_at_the_full_resolution_two_cores_a_coarser_one() -> None:
    large, small = planned(LONG_CT, device_memory_gb=40.0).task, planned(LONG_CT).task
    assert (large.network.size, large.preprocess.spacing_mm) == ("base", (2.5, 0.75, 0.75))
    assert small.network.size in ("tiny", "small")
    assert isinstance(small.preprocess.spacing_mm, tuple)
    slices, rows, columns = (
        n * mm / at for n, mm, at in zip((160, 512, 512), (2.5, 0.75, 0.75), small.preprocess.spacing_mm, strict=True)
    )
    assert 1_900_000 < slices * rows * columns <= 2_150_000
    assert rows == columns
    assert small.training.max_minutes == 15
    assert large.training.max_minutes is None
    assert planned(LONG_CT, device_memory_gb=6.0).task.network.size == "small"


def test_more_memory_never_makes_the_patch_or_the_batch_smaller() -> None:
    tasks = [planned(LONG_CT, device_memory_gb=gb).task for gb in (8.0, 12.0, 24.0, 48.0, 80.0)]
    patches = [math.prod(task.network.patch or ()) for task in tasks]
    assert patches == sorted(patches)
    assert all(task.training.batch_size >= 2 for task in tasks)


def test_ct_is_known_by_air_and_windowed_by_its_labelled_voxels() -> None:
    task = planned(LONG_CT).task
    assert (task.modalities, task.preprocess.window_hu) == (("CT",), (-57.0, 211.0))
    assert planned(LONG_CT, modality="MR").task.preprocess.window_hu is None
    assert planned(HIPPOCAMPUS, modality="CT").task.modalities == ("CT",)


def test_a_coarse_axis_takes_the_tenth_percentile_of_its_spacing_but_stays_the_coarsest() -> None:
    mixed = fingerprint((40, 256, 256), (2.0, 1.0, 1.0), *[(8.0, 1.0, 1.0)] * 3)
    assert target_spacing(mixed) == (2.0, 1.0, 1.0)
    assert target_spacing(fingerprint((40, 256, 256), (0.5, 1.0, 1.0), *[(8.0, 1.0, 1.0)] * 3)) == (1.0, 1.0, 1.0)
    assert target_spacing(THICK_MR) == (7.7, 1.25, 1.25)
    assert target_spacing(fingerprint((40, 50, 50), (1.0, 1.0, 1.0), *[(2.0, 1.0, 1.0)] * 3)) == (2.0, 1.0, 1.0)


def test_slices_of_unlike_thickness_are_resampled_to_one() -> None:
    mixed = fingerprint((30, 256, 256), (4.0, 1.0, 1.0), (8.0, 1.0, 1.0))
    assert planned(mixed, device_memory_gb=24.0).task.preprocess.spacing_mm == (4.0, 1.0, 1.0)
    assert planned(mixed).task.preprocess.spacing_mm == (4.0, 2.04, 2.04)  # 125 pixels a side for two cores


def test_rare_labels_weigh_more_and_are_reported_apart() -> None:
    labels = {1: Occurrence(20, 90_000), 2: Occurrence(2, 4_000)}
    plan = planned(
        fingerprint((36, 50, 35), (1.0, 1.0, 1.0), labels=labels), names={1: "liver", 2: "lesion", 5: "cyst"}
    )
    assert plan.task.rare == ("lesion", "cyst")
    assert plan.task.common_labels == ("liver",)
    assert plan.task.training.adaptive_weights
    assert plan.reasons["labels.1"] == "in 2 of 20 cases"
    assert plan.reasons["labels.2"] == "in no case: nothing to learn it from"
    assert planned(HIPPOCAMPUS).task.rare == ()
    assert not planned(HIPPOCAMPUS).task.training.adaptive_weights


def test_every_label_has_a_colour_of_its_own() -> None:
    assert len({colour(position) for position in range(60)}) == 60


def test_names_of_labels_go_by_position_or_by_id() -> None:
    assert dict(parse_names("liver, left kidney,")) == {1: "liver", 2: "left kidney"}
    assert dict(parse_names("7: spleen, 3:liver")) == {7: "spleen", 3: "liver"}
    assert dict(parse_names("")) == {}
    for wrong in ("0: liver", "x: liver", "300: liver", "1: liver, 1: spleen"):
        with pytest.raises(InvalidInput, match="names must be like"):
            parse_names(wrong)
    for wrong in ("liver, spleen, Liver", "1: liver, 7: liver"):
        with pytest.raises(InvalidInput, match="each label needs its own name"):
            parse_names(wrong)


SIDES = st.tuples(*[st.floats(1, 600)] * 3)


@settings(deadline=None)
@given(size=SIDES, spacing_mm=st.tuples(*[st.floats(0.3, 8.0)] * 3), voxels=st.integers(20_000, 4_000_000))
def test_every_patch_fits_its_strides_and_nearly_the_voxels(
    size: tuple[float, float, float], spacing_mm: tuple[float, float, float], voxels: int
) -> None:
    patch, strides = sized_patch(size, spacing_mm, voxels)
    multiples = side_multiples(strides)
    assert all(side % multiple == 0 for side, multiple in zip(patch, multiples, strict=True))
    assert patch != multiples
    assert all(side < max(n + 1, 16) + m for side, n, m in zip(patch, size, multiples, strict=True))
    assert math.prod(patch) <= 2.6 * voxels  # a side that holds the image is rounded up


def test_a_patch_that_cannot_be_whole_is_a_cube_in_millimetres() -> None:
    patch, strides = sized_patch((160.0, 512.0, 512.0), (2.5, 0.8, 0.8), 1_600_000)
    assert patch == (48, 160, 160)
    assert strides == plan_strides((54, 169, 169), (2.5, 0.8, 0.8))


def test_a_crop_is_a_whole_slice_or_one_of_which_four_fit() -> None:
    assert slice_crop((100.0, 50.0), 8, 150_000) == (104, 56)
    assert slice_crop((512.0, 100.0), 16, 150_000) == (192, 112)
    assert slice_crop((3.0, 3.0), 16, 150_000) == (32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "PET"}, "CT or MR, got 'PET'"),
        ({"dimensions": "4"}, "2, 3 or auto, got '4'"),
        ({"device_memory_gb": 0.0}, "must be positive, got 0.0 GB"),
        ({"device_memory_gb": math.inf}, "must be positive, got inf GB"),
        ({"name": "My Task"}, "lower-case letters, digits and underscores, got 'My Task'"),
    ],
)
def test_a_wrong_wish_is_refused_with_what_came(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PlanOptions(**{"name": "organs", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high", "shown"), [(40.0, 40.0, "40 to 40"), (0.1, 0.4, "0.1 to 0.4")])
def test_ct_whose_labelled_voxels_are_all_alike_or_in_other_units_is_refused(
    low: float, high: float, shown: str
) -> None:
    intensities = (low, *[high] * 4)
    flat = Fingerprint(((9, 9, 9),), ((1.0, 1.0, 1.0),), intensities, (-1000.0,), 729, {1: Occurrence(1, 5)})
    with pytest.raises(InvalidInput, match=f"99 % of them are from {shown}; the images must be in Hounsfield units"):
        planned(flat)


Put = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a case into tmp_path/images and tmp_path/labels."""

    def put(
        name: str, image: np.ndarray, ids: np.ndarray, spacing_mm: Sequence[float], label_mm: Sequence[float] = ()
    ) -> None:
        grids = [Geometry.from_spacing(image.shape, tuple(mm)) for mm in (spacing_mm, label_mm or spacing_mm)]  # type: ignore[arg-type]
        write_volume(Volume(image, grids[0], "CT"), tmp_path / "images" / f"{name}.nii.gz")
        write_mask(Mask(ids, grids[1], SCHEMA), tmp_path / "labels" / f"{name}.nii.gz")

    return put


def read(folder: Path, known: Sequence[int] = ()) -> Fingerprint:
    return read_fingerprint(folder / "images", folder / "labels", known, lambda *_: None)


def test_a_fingerprint_counts_cases_and_voxels_and_knows_labelled_intensities_alone(put: Put, tmp_path: Path) -> None:
    first, second = np.zeros((2, 10, 12, 14), dtype=np.float32)
    ids = np.zeros((10, 12, 14), dtype=np.uint8)
    ids[2:4, 2:4, 2:4] = 1
    first[:], first[ids == 1] = -1000, np.arange(8)
    put("a", first, ids, (5.0, 1.0, 1.0))
    ids[6] = 9
    second[:], second[ids > 0] = -1000, 7
    put("b", second, ids, (5.0, 1.0, 2.0))
    shares: list[float] = []
    found = read_fingerprint(tmp_path / "images", tmp_path / "labels", (), lambda share, _: shares.append(share))
    assert found.sizes == ((10, 12, 14),) * 2
    np.testing.assert_allclose(found.median_spacing_mm, (5.0, 1.0, 1.5))
    assert dict(found.labels) == {1: Occurrence(2, 16), 9: Occurrence(1, 168)}
    assert found.voxels == 2 * 10 * 12 * 14
    assert found.lowest == (-1000.0, -1000.0)
    values = [*range(8), *[7] * 176]
    np.testing.assert_allclose(found.intensities, np.percentile(values, (0.5, 5, 50, 95, 99.5)))
    np.testing.assert_allclose(found.median_size((5.0, 1.0, 1.0)), (10, 12, 21))
    assert shares == [0.0, 0.5, 1.0]


def test_bad_files_are_refused_by_name(put: Put, tmp_path: Path) -> None:
    image, ids = np.zeros((2, 4, 4), dtype=np.float32), np.ones((2, 4, 4), dtype=np.uint8)
    put("good", image, ids, (1.0, 1.0, 1.0))
    put("shifted", image, ids, (1.0, 1.0, 1.0), (1.0, 1.0, 1.2))
    with pytest.raises(InvalidInput, match=r"labels/shifted.nii.gz: the label must lie on the grid"):
        read(tmp_path)
    put("shifted", image, ids, (1.0, 1.0, 1.0))
    with pytest.raises(
        InvalidInput, match=r"good.nii.gz: label ids must be 0 or among the named ones \[2, 9\], got 1$"
    ):
        read(tmp_path, (2, 9))
    grid = Geometry.from_spacing((2, 4, 4), (1.0, 1.0, 1.0))
    write_volume(Volume(image + 0.5, grid, "MR"), tmp_path / "labels" / "good.nii.gz")
    with pytest.raises(InvalidInput, match=r"labels/good.nii.gz: label ids must be 0 or whole numbers .* got 0.5$"):
        read(tmp_path)
    write_mask(Mask(0 * ids, grid, SCHEMA), tmp_path / "labels" / "good.nii.gz")
    write_mask(Mask(0 * ids, grid, SCHEMA), tmp_path / "labels" / "shifted.nii.gz")
    with pytest.raises(InvalidInput, match="at least one labelled voxel, all 2 are empty"):
        read(tmp_path)


def test_an_image_with_nan_is_refused_by_name(put: Put, tmp_path: Path) -> None:
    import nibabel

    put("holed", np.zeros((2, 4, 4), dtype=np.float32), np.ones((2, 4, 4), dtype=np.uint8), (1.0, 1.0, 1.0))
    path = tmp_path / "images" / "holed.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 2), np.nan, dtype=np.float32), nibabel.load(path).affine), path)
    with pytest.raises(InvalidInput, match=r"images/holed.nii.gz: all voxels must be finite, got 32 of 32"):
        read(tmp_path)


@pytest.mark.parametrize("figures", [HIPPOCAMPUS, THICK_MR, LONG_CT, fingerprint((3, 9, 9), (1.0, 1.0, 1.0))])
@pytest.mark.parametrize("memory_gb", [None, 6.0, 24.0])
@pytest.mark.parametrize("dimensions", ["auto", "2", "3"])
def test_a_written_plan_reads_back_as_the_task_that_was_planned(
    figures: Fingerprint, memory_gb: float | None, dimensions: str, tmp_path: Path
) -> None:
    plan = planned(figures, device_memory_gb=memory_gb, dimensions=dimensions)
    write_task(plan.task, tmp_path / "organs.yaml", plan.reasons)
    assert load_task(tmp_path / "organs.yaml") == plan.task
    text = (tmp_path / "organs.yaml").read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert all(why in text.replace("\n  # ", " ") for key, why in plan.reasons.items() if key and key != "rare")
    if plan.task.network.patch is not None:
        multiples = config_stride(plan.task.network)
        assert all(side % m == 0 for side, m in zip(plan.task.network.patch, multiples, strict=True))


@pytest.mark.parametrize(("dimensions", "kind"), [("2", "transunet"), ("3", "transunet3d")])
def test_a_planned_task_trains_and_predicts_as_it_is_written(
    dimensions: str, kind: str, put: Put, tmp_path: Path
) -> None:
    from lib.inference.model import load_predictor
    from lib.workflows.offline import TrainOptions, train_folder
    from lib.workflows.userfiles import pairs_of, read_case

    for seed in range(2):
        ids = np.zeros((9, 20, 18), dtype=np.uint8)
        ids[3:7, 5:15, 4:12] = 2
        noise = np.random.default_rng(seed).normal(0, 20, ids.shape)
        put(f"case{seed}", (200.0 * ids + noise).astype(np.float32), ids, (3.0, 1.0, 1.0))
    figures = read(tmp_path)
    plan = planned(figures, dimensions=dimensions)
    path = tmp_path / "organs.yaml"
    write_task(plan.task, path, plan.reasons)
    text = path.read_text()
    path.write_text(text.replace("steps: 1500", "steps: 2").replace("size: small", "size: tiny"))
    task = load_task(path)
    assert task.network.kind == kind
    train_folder(
        tmp_path / "images", tmp_path / "labels", task, tmp_path / "model", TrainOptions(device="cpu"), lambda _: None
    )
    case = read_case(pairs_of(tmp_path / "images", tmp_path / "labels")[0], task)
    prediction = load_predictor(tmp_path / "model", task, "cpu", 4).predict(case.volume)
    assert prediction.mask.array.shape == (9, 20, 18)


def test_the_plan_of_a_phantom_with_thick_slices_is_flat_or_of_slices(tmp_path: Path, put: Put) -> None:
    from lib.demo.phantom import make_phantom

    volume, mask = make_phantom(1, load_task("phantom_ct").schema)
    image = volume.array[:, :64, :64]
    ids = np.where(np.isin(mask.array[:, :64, :64], SCHEMA.ids), mask.array[:, :64, :64], 0)
    thick = image[: len(image) // 2 * 2].reshape(-1, 2, 64, 64).mean(axis=1)
    put("phantom", thick, ids[::2], (5.0, 1.4, 1.4))
    plan = planned(read(tmp_path))
    assert plan.task.modalities == ("CT",)
    assert plan.task.network.kind == "transunet"
    flat = planned(read(tmp_path), dimensions="3").task
    assert flat.preprocess.spacing_mm == (5.0, 1.4, 1.4)
    assert flat.network.strides[0] == (1, 2, 2)


@pytest.mark.data
def test_the_hippocampus_set_is_planned_at_one_millimetre_with_a_patch_near_its_median_size() -> None:
    folder = Path(os.environ["TRANSUNET_DATA"]) / "hippocampus"
    figures = read(folder)
    task = planned(figures).task
    assert task.network.kind == "transunet3d"
    assert task.preprocess.spacing_mm == (1.0, 1.0, 1.0)
    median = figures.median_size((1.0, 1.0, 1.0))
    assert task.network.patch is not None
    assert all(0 <= side - size < 8 for side, size in zip(task.network.patch, median, strict=True))
    assert task.modalities == ("MR",)


def test_machines_hold_what_was_measured() -> None:
    assert Machine(8.0).patch_voxels == 666_666  # (0.85 * 8 - 2) GB at 3600 bytes, for two patches
    assert Machine(8.0).size_of_slices == "base"
    assert Machine(None).patches((40, 56, 40)) == 2
    assert Machine(24.0).patches((40, 56, 40)) == 8
