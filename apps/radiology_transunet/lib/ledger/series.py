"""Series and the splits of their patients."""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger import leasing, masks, tables
from lib.ledger.book import Book, insert_new, require_among, require_series
from lib.ledger.rows import SERIES_STATUSES, NewSeries, SeriesRow, SeriesStatus

T = tables.series
P = tables.patients
COLUMNS = (*(column for column in T.c), P.c.split)
CHUNK = 500


class Series(Book):
    """`ledger.series`: each series once, with its findings or the reason why it cannot be used."""

    __slots__ = ()

    def add(self, new: NewSeries) -> bool:
        """Enter a series with the status new, and its patient when he is new.

        A known patient keeps his split, whatever `new.split` says. A series that is registered for another patient
        moves to him, with its labels and into his split. One that has another number of instances than before loses
        its drafts and labels: they say nothing of the slices that came.

        Returns:
            Whether there is something to check: the series was unknown, was gone, or has another
            number of instances than before. False when it is known as it is.
        """
        now = self.clock()
        with self._write() as connection:
            split = self._ensure_patient(connection, new.patient, new.split, "arrived")
            values = {k: v for k, v in asdict(new).items() if k != "split"}
            blank: dict[str, Any] = {"reason": "", "frame_of_reference_uid": "", "findings": [], "geometry": None}
            state = {"status": "new", "updated_at": now, **blank}
            if insert_new(connection, T, {**values, **state, "created_at": now}):
                self._note(connection, "series.added", new.series_uid, {"patient": new.patient})
                return True
            require_series(connection, new.series_uid)
            known = _row(connection, new.series_uid)
            if known.patient != new.patient:
                self._move(connection, known, values, split)
            if known.status != "gone" and known.instances == new.instances:
                return False
            outdated = _outdate(connection, now, known, new.instances)
            connection.execute(sa.update(T).where(T.c.series_uid == new.series_uid).values({**values, **state}))
            leasing.refresh(connection, new.series_uid)
            details = {"instances": [known.instances, new.instances], "was": known.status, "superseded": outdated}
            self._note(connection, "series.changed", new.series_uid, details)
            return True

    def set_ready(
        self,
        series_uid: str,
        findings: Sequence[str],
        frame_of_reference_uid: str,
        geometry: Mapping[str, Any] | None = None,
        instances: int | None = None,
    ) -> bool:
        """The series makes a volume and may be offered.

        Args:
            series_uid: which one.
            findings: harmless remarks.
            frame_of_reference_uid: the space it lies in.
            geometry: its grid.
            instances: how many were looked at; None = all.

        Returns:
            Whether the verdict holds: False, and no change, when the series has another number of instances by now.

        Raises:
            NotFound: no such series.
            Conflict: it is gone from the archive.
        """
        values = {
            "reason": "",
            "findings": list(findings),
            "frame_of_reference_uid": frame_of_reference_uid,
            "geometry": geometry,
        }
        return self._set(series_uid, "ready", values, {"findings": list(findings)}, instances)

    def refuse(self, series_uid: str, reason: str, instances: int | None = None) -> bool:
        """The series cannot be used; it leaves all queues, its leases end.

        Args:
            series_uid: which one.
            reason: why.
            instances: how many were looked at; None = all.

        Returns:
            Whether the verdict holds: False, and no change, when the series has another number of instances by now.

        Raises:
            NotFound: no such series.
            Conflict: it is gone from the archive.
            InvalidInput: no reason.
        """
        if not reason:
            raise InvalidInput(f"a refusal needs a reason, got none for series {series_uid}")
        return self._set(series_uid, "refused", {"reason": reason}, {"reason": reason}, instances)

    def set_gone(self, series_uid: str) -> None:
        """The series is no longer in the archive; it leaves all queues, its leases end."""
        self._set(series_uid, "gone", {}, {})

    def get(self, series_uid: str) -> SeriesRow:
        """The series.

        Raises:
            NotFound: no such series.
        """
        with self._read() as connection:
            return _row(connection, series_uid)

    def list(
        self, status: str | None = None, split: str | None = None, limit: int | None = None, offset: int = 0
    ) -> builtins.list[SeriesRow]:
        """Series in the order of their UIDs.

        Raises:
            InvalidInput: no such status.
        """
        require_among("status", status, SERIES_STATUSES)
        query = sa.select(*COLUMNS).join_from(T, P).order_by(T.c.series_uid).limit(limit).offset(offset)
        if status is not None:
            query = query.where(T.c.status == status)
        if split is not None:
            query = query.where(P.c.split == split)
        with self._read() as connection:
            return [_to_row(row) for row in connection.execute(query).mappings()]

    def some(self, series_uids: Sequence[str]) -> builtins.list[SeriesRow]:
        """Those series, in that order; unknown ones are left out."""
        found: dict[str, SeriesRow] = {}
        query = sa.select(*COLUMNS).join_from(T, P)
        with self._read() as connection:
            for start in range(0, len(series_uids), CHUNK):
                part = query.where(T.c.series_uid.in_(series_uids[start : start + CHUNK]))
                found |= {row["series_uid"]: _to_row(row) for row in connection.execute(part).mappings()}
        return [found[uid] for uid in series_uids if uid in found]

    def of_study(self, study_uid: str) -> builtins.list[SeriesRow]:
        """The series of a study, in the order of their UIDs."""
        query = sa.select(*COLUMNS).join_from(T, P).where(T.c.study_uid == study_uid).order_by(T.c.series_uid)
        with self._read() as connection:
            return [_to_row(row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[SeriesStatus, int]:
        """Number of series by status; every status has one."""
        query = sa.select(T.c.status, sa.func.count()).group_by(T.c.status)
        with self._read() as connection:
            found = connection.execute(query).all()
        return {**dict.fromkeys(SERIES_STATUSES, 0), **dict(found)}

    def patient_split(self, patient: str) -> str | None:
        """The split of a patient, None when the ledger does not know him."""
        with self._read() as connection:
            return connection.execute(sa.select(P.c.split).where(P.c.patient == patient)).scalar()

    def assign_split(self, patient: str, split: str, reason: str = "assigned") -> None:
        """Give a patient his split before his first series arrives; the same one again changes nothing.

        Raises:
            Conflict: he has another split; a split never changes.
        """
        with self._write() as connection:
            found = self._ensure_patient(connection, patient, split, reason)
            if found != split:
                raise Conflict(f"patient {patient} is in split {found} for ever, got {split}")

    def _ensure_patient(self, connection: sa.Connection, patient: str, split: str, reason: str) -> str:
        """Enter the patient when he is new; the split that he has."""
        if not patient or not split:
            raise InvalidInput(f"a patient needs a pseudonym and a split, got {patient!r} and {split!r}")
        values = {"patient": patient, "split": split, "reason": reason, "created_at": self.clock()}
        if insert_new(connection, P, values):
            self._note(connection, "patient.split", patient, {"split": split, "reason": reason})
            return split
        return str(connection.execute(sa.select(P.c.split).where(P.c.patient == patient)).scalar_one())

    def _move(self, connection: sa.Connection, known: SeriesRow, values: Mapping[str, Any], split: str) -> None:
        """Give a series to another patient; the trail names its labels when they change the split with it."""
        kept = {k: v for k, v in values.items() if k != "instances"}
        connection.execute(
            sa.update(T).where(T.c.series_uid == known.series_uid).values({**kept, "updated_at": self.clock()})
        )
        details: dict[str, Any] = {"patient": [known.patient, values["patient"]]}
        if split != known.split:
            details |= {"split": [known.split, split], "labels": masks.living_labels(connection, known.series_uid)}
        self._note(connection, "series.moved", known.series_uid, details)

    def _set(
        self,
        series_uid: str,
        status: SeriesStatus,
        values: Mapping[str, Any],
        details: Mapping[str, Any],
        instances: int | None = None,
    ) -> bool:
        now = self.clock()
        with self._write() as connection:
            require_series(connection, series_uid)
            known = _row(connection, series_uid)
            if status != "gone" and known.status == "gone":
                raise Conflict(f"series {series_uid} is gone from the archive, so it cannot become {status}")
            if instances is not None and known.instances != instances:
                return False
            changed = {**values, "status": status, "updated_at": now}
            connection.execute(sa.update(T).where(T.c.series_uid == series_uid).values(changed))
            if status != "ready":
                leasing.end(connection, now, status, series_uid=series_uid)
            leasing.refresh(connection, series_uid)
            self._note(connection, f"series.{status}", series_uid, details)
            return True


def _outdate(connection: sa.Connection, at: datetime, known: SeriesRow, instances: int) -> list[int]:
    """Supersede what was made of another number of instances; the ids."""
    if known.instances == instances:
        return []
    reason = f"it was made when the series had {known.instances} instances, now it has {instances}"
    return masks.outdate(connection, at, known.series_uid, reason)


def _row(connection: sa.Connection, series_uid: str) -> SeriesRow:
    query = sa.select(*COLUMNS).join_from(T, P).where(T.c.series_uid == series_uid)
    found = connection.execute(query).mappings().first()
    if found is None:
        raise NotFound(f"the ledger has no series {series_uid}")
    return _to_row(found)


def _to_row(row: sa.RowMapping) -> SeriesRow:
    return SeriesRow(**{**row, "findings": tuple(row["findings"])})
