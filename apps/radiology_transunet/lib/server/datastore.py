"""MONAI Label's datastore on our ledger and archive, for the stock command.

Files that it hands out by path are made when asked for, below var/cache, which may be deleted at any time.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from lib.server import describe, labels
from lib.server.errors import NotAllowed
from lib.server.images import series_uid
from lib.workflows.services import Services

FIXED = "images and labels are never removed or rewritten here: use the archive, and transunet-label review"


class LedgerDatastore(Datastore):
    """Images are series of the archive, labels are annotations of the ledger.

    Args:
        services: opens the rooms at the first use.
    """

    def __init__(self, services: Callable[[], Services]) -> None:
        self._open = services

    @property
    def services(self) -> Services:
        """The rooms."""
        return self._open()

    def name(self) -> str:
        """The archive's address."""
        return self.services.settings.archive.url

    def set_name(self, name: str) -> None:
        """Names are not kept."""
        raise NotAllowed("the datastore is named after its archive")

    def description(self) -> str:
        """In words."""
        return "series of the DICOM archive, annotations of the ledger"

    def set_description(self, description: str) -> None:
        """Descriptions are not kept."""
        raise NotAllowed("the datastore's description does not change")

    def datalist(self) -> list[dict[str, Any]]:
        """Accepted annotations with their series."""
        return labels.training_pairs(self.services)

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """By tag, the id of the label, which is the image's."""
        found = labels.everything(self.services)["objects"].get(image_id, {"labels": {}})
        return dict.fromkeys(found["labels"], image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The id of a label of that tag, empty when there is none."""
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """The image's file."""
        return self.get_image_uri(image_id)

    def get_image_uri(self, image_id: str) -> str:
        """Path of a NIfTI file of the series, made now."""
        uid = series_uid(image_id)
        return self._made("images", uid, lambda path: labels.write_image(self.services, uid, path))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """The label's file."""
        return self.get_label_uri(label_id, label_tag)

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a NIfTI file of the label, made now."""
        row = labels.find(self.services, label_id, label_tag)
        return self._made("labels", str(row.id), lambda path: labels.write_label(self.services, row, path))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What the ledger knows of the series."""
        return labels.image_info(self.services, series_uid(image_id))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What the ledger knows of the label."""
        return labels.annotation_info(labels.find(self.services, label_id, label_tag))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series with an accepted annotation."""
        return sorted({pair["image"] for pair in self.datalist()})

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Usable series without one."""
        done = set(self.get_labeled_images())
        return [image for image in self.list_images() if image not in done]

    def list_images(self) -> list[str]:
        """Usable series."""
        return [row.series_uid for row in self.services.ledger.series.list(status="ready")]

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Whole data sets leave by DICOMweb."""
        raise NotAllowed("fetch images and SEG from the archive by DICOMweb")

    def refresh(self) -> None:
        """Nothing is cached."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Images come by DICOMweb."""
        raise NotAllowed("store images in the archive by DICOMweb")

    def remove_image(self, image_id: str) -> None:
        """Never from here."""
        raise NotAllowed(FIXED)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Take a human's label in."""
        if label_tag and label_tag != labels.FINAL:
            raise NotAllowed(f"people save labels with the tag {labels.FINAL!r}, got {label_tag!r}")
        author = str(label_info.get("client_id") or "")
        labels.save(self.services, series_uid(image_id), Path(label_filename), label_info, author)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Never from here."""
        raise NotAllowed(FIXED)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Leases stand in the ledger; what MONAI Label would note here is not needed."""

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Never from here."""
        raise NotAllowed(FIXED)

    def status(self) -> dict[str, Any]:
        """Counts."""
        return describe.datastore_status(self.services)

    def json(self) -> dict[str, Any]:
        """Every image with its labels."""
        return labels.everything(self.services)

    def _made(self, kind: str, name: str, write: Callable[[Path], None]) -> str:
        """Path of a file in the cache, written beside its target and moved."""
        folder = self.services.settings.var / "cache" / kind
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{name}{labels.EXTENSION}"
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                draft = Path(scratch) / target.name
                write(draft)
                os.replace(draft, target)
        return str(target)
