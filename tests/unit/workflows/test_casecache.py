from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import InvalidInput
from lib.ledger.rows import NewHuman, NewSeries
from lib.workflows.casecache import CaseCache
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
