from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import InvalidInput, NotFound
from lib.core.geometry import Geometry
from lib.core.values import Volume
from lib.ledger.rows import NewHuman, NewSeries
from lib.workflows.casecache import CaseCache, LazyCases, prune_cache
from lib.workflows.casefiles import read_arrays, read_volume, write_volume
from lib.workflows.services import Services

Label = Callable[..., int]


@pytest.fixture
def cache(services: Services) -> CaseCache:
    return CaseCache(services, services.task())


def files(services: Services) -> list[Path]:
    return sorted(path for path in (services.settings.var / "cache").rglob("*") if path.is_file())


@pytest.mark.parametrize("uid", ["../../../../evil", "/tmp/evil", "1.2/../../3", "1.2\n", "1" * 65, "a.b"])
def test_a_uid_that_is_none_is_refused_and_nothing_is_written(
    services: Services, cache: CaseCache, label: Label, tmp_path: Path, uid: str
) -> None:
    row = services.ledger.annotations.get(label("p1"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidInput, match="a UID must be 1 to 64 digits and dots"):
        cache.case(replace(row, sop_instance_uid=uid))
    services.ledger.series.add(NewSeries(uid, "1.2", "p2", "pool", "CT"))
    services.ledger.series.set_ready(uid, [], "1.3")
    empty = services.ledger.annotations.add_human(
        NewHuman(uid, services.task().name, "Ann", nothing_found=True), accept=True
    )
    with pytest.raises(InvalidInput, match="a UID must be 1 to 64 digits and dots"):
        cache.case(services.ledger.annotations.get(empty))
    assert sorted(tmp_path.rglob("*")) == before


def test_no_uid_is_part_of_a_file_name_and_labels_of_one_series_share_its_volume(
    services: Services, cache: CaseCache, label: Label
) -> None:
    row = services.ledger.annotations.get(label("p1", seed=1, cube=True))
    first = cache.case(row)
    names = " ".join(path.name for path in files(services))
    assert len(files(services)) == 2
    assert row.series_uid not in names
    assert str(row.sop_instance_uid) not in names
    services.archive.fetched.clear()
    second = cache.case(row)
    assert services.archive.fetched == []
    np.testing.assert_array_equal(second.volume.array, first.volume.array)
    np.testing.assert_array_equal(second.mask.array, first.mask.array)
    assert second.volume.geometry.affine.tolist() == first.volume.geometry.affine.tolist()
    assert (second.patient, second.name, second.volume.modality) == (first.patient, first.name, "CT")


def test_cases_are_read_from_the_disk_each_time_and_what_is_lost_there_is_fetched_again(
    services: Services, cache: CaseCache, label: Label
) -> None:
    rows = [services.ledger.annotations.get(label(f"p{seed}", seed=seed)) for seed in range(3)]
    cases = LazyCases(cache, rows)
    for row in rows:
        cache.fill(row)
        cache.fill(row)
    assert services.archive.fetched.count(rows[0].series_uid) == 2  # the test's own look, and one
    assert (len(cases), cases.ids) == (3, tuple(row.id for row in rows))
    assert [case.name for case in cases] == [f"annotation {row.id}" for row in rows]
    assert cases[-1].name == f"annotation {rows[2].id}"
    assert cases[1:].ids == cases.ids[1:]
    assert cases[0].volume is not cases[0].volume
    before = cases[0]
    for path in files(services):
        path.write_bytes(b"broken")
    np.testing.assert_array_equal(cases[0].volume.array, before.volume.array)
    np.testing.assert_array_equal(cases[0].mask.array, before.mask.array)
    with pytest.raises(IndexError):
        cases[3]


def test_a_series_that_left_the_archive_cannot_be_put_into_the_cache(
    services: Services, cache: CaseCache, label: Label
) -> None:
    row = services.ledger.annotations.get(label("p1"))
    services.archive.delete_series(row.series_uid)
    with pytest.raises(NotFound):
        cache.fill(row)


@pytest.mark.parametrize(
    ("values", "stored_as"),
    [
        ([-32768, -1000, 0, 32767], np.int16),
        ([-1000.5, 0, 1, 2], np.float32),
        ([0, 1, 2, 32768], np.float32),
        ([-32769, 0, 1, 2], np.float32),
        ([1e-30, 3e38, -3e38, 7], np.float32),
    ],
)
def test_a_volume_comes_back_exactly_and_whole_numbers_take_half_the_space(
    tmp_path: Path, values: list[float], stored_as: type
) -> None:
    geometry = Geometry.from_spacing((1, 2, 2), (3.0, 0.7, 0.7), origin_mm=(1.5, -2.5, 7.25))
    volume = Volume(np.array(values, np.float32).reshape(1, 2, 2), geometry, "MR")
    write_volume(tmp_path / "volume.npz", volume)
    assert read_arrays(tmp_path / "volume.npz")["array"].dtype == stored_as
    back = read_volume(tmp_path / "volume.npz")
    assert back.array.dtype == np.float32
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.geometry.affine, geometry.affine)
    assert back.modality == "MR"


def test_pruning_keeps_what_an_accepted_label_names_and_nothing_else(
    services: Services, cache: CaseCache, label: Label
) -> None:
    kept, rejected, empty = (label("p1", seed=1), label("p2", seed=2), label("p3", seed=3, empty=True))
    for annotation in (kept, rejected, empty):
        cache.fill(services.ledger.annotations.get(annotation))
    assert len(files(services)) == 5
    old = services.settings.var / "cache" / "masks" / "task-of-old" / "1.2.3.npz"
    old.parent.mkdir()
    old.write_bytes(b"")
    (services.settings.var / "cache" / "volumes" / ".half.npz.17").write_bytes(b"written by a process that was killed")
    services.ledger.annotations.reject(rejected, "rev", "not good")
    assert prune_cache(services) == 4
    assert len(files(services)) == 3
    services.archive.fetched.clear()
    for annotation in (kept, empty):
        cache.case(services.ledger.annotations.get(annotation))
    assert services.archive.fetched == []
    assert prune_cache(services) == 0


def test_without_a_cache_there_is_nothing_to_prune(services: Services) -> None:
    assert prune_cache(services) == 0
