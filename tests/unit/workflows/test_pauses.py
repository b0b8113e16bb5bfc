from datetime import UTC, datetime, timedelta

import pytest

from lib.workflows.pauses import archive_pause_s, draft_pause

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("failures", "minutes"), [(1, 1), (2, 2), (3, 4), (11, 1024), (12, 1440), (13, 1440), (10_000, 1440)]
)
def test_a_draft_rests_a_minute_that_doubles_with_each_failure_up_to_a_day(failures: int, minutes: int) -> None:
    assert draft_pause(failures) == timedelta(minutes=minutes)


@pytest.mark.parametrize(("waited_s", "pause_s"), [(-3, 5), (0, 5), (5, 5), (12, 12), (600, 600), (90_000, 600)])
def test_a_job_rests_for_want_of_the_archive_as_long_as_it_has_waited(waited_s: float, pause_s: float) -> None:
    assert archive_pause_s(NOON - timedelta(seconds=waited_s), NOON) == pause_s
