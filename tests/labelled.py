"""Labels of made-up patients, and a first champion that has learned from some of them."""

from pathlib import Path

from lib.core.values import Mask
from lib.dicom.seg import SegOrigin, write_seg
from lib.dicom.series import assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets
from lib.inference.model import Manifest, build_network, save_model
from lib.ledger.rows import NewHuman, NewSeries
from lib.workflows.promotion import promote
from lib.workflows.services import Services
from rooms import SHAPE, ball

TASK = """
name: balls
description: A bright ball in noise
modalities: [CT]
labels:
  - {name: ball, id: 3, color: [200, 60, 60], code: {value: "1", meaning: Ball}}
preprocess: {window_hu: [-200, 400]}
network: {size: tiny, context_slices: 0}
training: {steps: 16, batch_size: 2, checkpoint_every: 3, learning_rate: 0.01, ema_decay: 0.9}
"""
SPLITS = ("pool",) * 4 + ("calibration",) * 2 + ("promotion",) * 3


def label_patients(services: Services) -> list[int]:
    """A label of a patient for each of `SPLITS`; the annotations' ids."""
    return [add_label(services, number, split) for number, split in enumerate(SPLITS)]


def add_label(services: Services, number: int, split: str) -> int:
    """A series with a ball and a person's accepted SEG of it; the annotation's id."""
    identity = SeriesIdentity(f"P{number}", f"P{number}", new_uid(), new_uid(), new_uid(), "ball")
    volume, labels = ball(number)
    services.archive.store(series_to_datasets(volume, identity))
    new = NewSeries(identity.series_uid, identity.study_uid, f"P{number}", split, "CT", "ball", SHAPE[0])
    services.ledger.series.add(new)
    services.ledger.series.set_ready(identity.series_uid, [], identity.frame_of_reference_uid, None)
    source = assemble(services.archive.fetch(identity.series_uid))
    mask = Mask(labels, source.volume.geometry, services.task().schema)
    sop_uid, seg_uid = new_uid(), new_uid()
    origin = SegOrigin("MANUAL", "Ann", "", "", "by hand")
    services.archive.store([write_seg(mask, source, origin, sop_uid, seg_uid)])
    human = NewHuman(identity.series_uid, services.task().name, "Ann", sop_uid, seg_uid, voxels=mask.voxels())
    return services.ledger.annotations.add_human(human, accept=True)


def register_champion(services: Services, folder: Path, learned: tuple[int, ...]) -> None:
    """A version that draws something, never the truth."""
    import torch

    task = services.task()
    torch.manual_seed(5)
    state = build_network(task.network, task.schema).state_dict()
    save_model(folder, Manifest.describe(task, 5, {}, learned), state)
    promote(services, task, services.registry.register(task.name, folder, {}), "the first model")
