"""A phantom with a planted artefact: the map in the archive and the infer reply tell where the model is unsure."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Mask, Prediction, Volume
from lib.demo.phantom import make_phantom
from lib.dicom.files import decode, encode
from lib.dicom.pmap import QUANTITIES, read_pmap, write_pmap
from lib.dicom.seg import SegOrigin
from lib.dicom.series import assemble
from lib.dicom.writer import SeriesIdentity, new_uid, series_to_datasets
from lib.inference.config import PredictConfig, PreprocessConfig, UncertaintyConfig
from lib.inference.model import build_network, build_preprocess
from lib.inference.predictor import Predictor
from lib.networks.config import NetworkConfig
from lib.server import replies

SPINE = LabelSchema((Label("spine", 1, (226, 202, 134), Code("421060004", "Spine")),))
STEPS, RATE, SHIFT = 90, 0.006, 12
ORIGIN = SegOrigin("AUTOMATIC", "radiology_transunet", "TransUNet test", "1", "Uncertainty test v1")

Trained = tuple[Predictor, Volume]


def coarse(seed: int) -> tuple[Volume, Mask]:
    """The middle of a phantom at every fourth slice and every second row and column, (8, 32, 64)."""
    volume, mask = make_phantom(seed, SPINE, lesion=False)
    picked = slice(16, 48, 4), slice(48, 112, 2), slice(None, None, 2)
    affine = volume.geometry.affine @ np.diag([4.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = volume.geometry.to_lps((16, 48, 0))
    geometry = Geometry((8, 32, 64), affine)
    return Volume(volume.array[picked], geometry, "CT"), Mask(mask.array[picked], geometry, SPINE)


@pytest.fixture(scope="module")
def trained() -> Trained:
    """Some seconds of training to find the spine of one phantom wherever it is moved to, and another phantom."""
    torch.set_num_threads(1)
    config = NetworkConfig(size="tiny", context_slices=0, dropout=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config, SPINE)
        preprocess = build_preprocess(PreprocessConfig(window_hu=(-160, 240)), config)
        volume, mask = coarse(1)
        prepared = preprocess.apply(volume)
        images = torch.from_numpy(prepared.slices.copy())
        truth = torch.from_numpy(preprocess.apply_mask(mask, prepared.placement)).long()
        optimiser = torch.optim.AdamW(network.train().parameters(), lr=RATE)
        for step in range(STEPS):
            for group in optimiser.param_groups:
                group["lr"] = RATE * min(1.0, (step + 1) / 10) * (1 - step / STEPS)
            moved = tuple(torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist())
            some = torch.randperm(len(images))[:6]
            logits, wanted = network(images[some].roll(moved, (2, 3))), truth[some].roll(moved, (1, 2))
            found, there = logits.softmax(dim=1)[:, 1], (wanted == 1).float()
            loss = F.cross_entropy(logits, wanted) + 1 - 2 * (found * there).sum() / (found.sum() + there.sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    uncertainty = UncertaintyConfig("dropout", samples=4, seed=0, map="bald")
    return Predictor(network, preprocess, SPINE, torch.device("cpu"), 8, PredictConfig(), uncertainty), coarse(9)[0]


@pytest.fixture(scope="module")
def artefact() -> np.ndarray:
    """A ball (8, 32, 64) in one flank, away from the spine."""
    slices, rows, columns = np.ogrid[:8, :32, :64]
    return ((rows - 14) ** 2 + (columns - 54) ** 2 < 4.5**2) & (np.abs(slices - 4) <= 1)


@pytest.fixture(scope="module")
def predictions(trained: Trained, artefact: np.ndarray) -> tuple[Prediction, Prediction]:
    """Of the phantom as it is, and with metal in its flank: bright and dark at random."""
    predictor, volume = trained
    values = volume.array.copy()
    values[artefact] = np.random.default_rng(0).choice([0.0, 300.0], int(artefact.sum()))
    return predictor.predict(volume), predictor.predict(Volume(values, volume.geometry, "CT"))


def map_in_archive(volume: Volume, values: np.ndarray, quantity: str) -> np.ndarray:
    """The map as it comes back from a file, on the series' grid."""
    identity = SeriesIdentity("P", "P", new_uid(), new_uid(), new_uid(), "phantom")
    source = assemble([decode(encode(dataset)) for dataset in series_to_datasets(volume, identity)])
    written = write_pmap(values, source.geometry, source, QUANTITIES[quantity], ORIGIN, 2, new_uid())
    return read_pmap(decode(encode(written)), source)


@pytest.mark.parametrize(
    ("quantity", "of"), [("entropy", lambda made: made.entropy), ("bald", lambda made: made.information)]
)
def test_the_map_is_higher_in_an_artefact_than_in_its_mirror_image_and_than_without_it(
    trained: Trained,
    predictions: tuple[Prediction, Prediction],
    artefact: np.ndarray,
    quantity: str,
    of: Callable[[Prediction], np.ndarray],
) -> None:
    clean, planted = (map_in_archive(trained[1], of(made), quantity) for made in predictions)
    inside = float(planted[artefact].mean())
    assert inside > 3 * float(planted[:, :, ::-1][artefact].mean())
    assert inside > 3 * float(clean[artefact].mean())


def test_the_reply_tells_every_quantity_of_the_label(predictions: tuple[Prediction, Prediction]) -> None:
    params = replies.infer_params(predictions[1], 1, 0.0)
    assert set(params["quantities"]) == {"entropy", "margin", "bald", "disagreement"}
    scores = {quantity: found["spine"] for quantity, found in params["quantities"].items()}
    assert min(scores["entropy"], scores["margin"], scores["bald"]) > 0
    assert scores == {quantity: found["spine"] for quantity, found in predictions[1].quantities.items()}
    evidence = params["evidence"]["spine"]
    assert evidence["volume_ml"] == predictions[1].volumes_ml["spine"] > 0
    assert evidence["samples_dice"] == 1 - scores["disagreement"]


class Threshold(torch.nn.Module):
    """Finds what is brighter than 500 HU after smoothing, and is unsure near that; nobody has to train it."""

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        smooth = F.avg_pool2d(images, 3, 1, 1)
        bright = 30 * smooth  # of 0: half-way between the ends of the window
        return torch.cat([-bright, bright], dim=1), smooth.mean(dim=(2, 3))


def side(volume: Volume, mirrored: bool) -> Volume:
    """The flank with the artefact, (8, 32, 22), or the mirror image of the other flank: neither shows the spine."""
    values = volume.array[:, :, ::-1] if mirrored else volume.array
    flank = values[:, :, 42:].copy()
    return Volume(flank, Geometry(flank.shape, volume.geometry.affine), "CT")


def test_the_reply_on_the_side_of_an_artefact_is_less_sure_than_on_its_mirror_image(artefact: np.ndarray) -> None:
    """A reply has a number a label, so the two sides of one patient are asked about one after the other."""
    config = NetworkConfig(size="tiny", context_slices=0)
    preprocess = build_preprocess(PreprocessConfig(window_hu=(-1000, 2000)), config)
    predictor = Predictor(Threshold(), preprocess, SPINE, torch.device("cpu"), 8)
    volume = coarse(9)[0]
    values = volume.array.copy()
    values[artefact] = np.random.default_rng(0).choice([0.0, 1500.0], int(artefact.sum()))  # ribs have up to 430
    planted = Volume(values, volume.geometry, "CT")
    inside, mirror, clean = (
        replies.infer_params(predictor.predict(one), 1, 0.0)["quantities"]
        for one in (side(planted, False), side(planted, True), side(volume, False))
    )
    for quantity in ("entropy", "margin"):
        assert inside[quantity]["spine"] > 2 * mirror[quantity]["spine"], quantity
        assert inside[quantity]["spine"] > 2 * clean[quantity]["spine"], quantity
