import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.core.errors import ManifestMismatch, NotFound
from lib.core.geometry import Geometry
from lib.core.labels import Code, Label, LabelSchema
from lib.core.values import Volume
from lib.inference.config import PredictConfig, PreprocessConfig
from lib.inference.ensemble import Ensemble
from lib.inference.model import (
    Manifest,
    build_network,
    file_sha256,
    load_ensemble,
    load_predictor,
    read_manifest,
    save_model,
)
from lib.networks.config import NetworkConfig


@dataclass(frozen=True)
class Parts:
    """What a task says of a model."""

    name: str
    schema: LabelSchema
    preprocess: PreprocessConfig
    network: NetworkConfig
    predict: PredictConfig = field(default_factory=PredictConfig)


@pytest.fixture
def task(schema: LabelSchema) -> Parts:
    return Parts("organs", schema, PreprocessConfig(window_hu=(-160, 240)), NetworkConfig())


@pytest.fixture
def folder(task: Parts, tmp_path: Path) -> Path:
    torch.manual_seed(4)
    network = build_network(task.network, task.schema)
    manifest = Manifest.describe(task, seed=4, metrics={"dice/liver": 0.9}, annotations=(3, 5))
    save_model(tmp_path / "model", manifest, network.state_dict())
    return tmp_path / "model"


def test_a_saved_model_predicts_as_the_network_that_was_saved(task: Parts, folder: Path) -> None:
    torch.manual_seed(4)
    network = build_network(task.network, task.schema).eval()
    volume = Volume(np.full((1, 16, 16), 40.0), Geometry.from_spacing((1, 16, 16), (1, 1, 1)), "CT")
    prediction = load_predictor(folder, task, "cpu", batch_size=1).predict(volume)
    with torch.inference_mode():
        logits, embedding = network.segment(torch.zeros(1, 3, 16, 16))
    ids = np.array([0, *task.schema.ids])
    np.testing.assert_array_equal(prediction.mask.array[0], ids[logits[0].argmax(dim=0).numpy()])
    np.testing.assert_allclose(prediction.embedding, embedding[0], atol=1e-6)


def test_a_manifest_comes_back_from_the_folder_with_the_checksum_of_its_weights(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.task == "organs"
    assert manifest.labels == (("liver", 7), ("spleen", 2), ("aorta", 200))
    assert (manifest.seed, manifest.annotations, manifest.metrics) == (4, (3, 5), {"dice/liver": 0.9})
    assert manifest.packages["torch"] == torch.__version__.partition("+")[0] or manifest.packages["torch"]
    assert (folder / manifest.weights).is_file()
    assert Manifest.from_dict(manifest.to_dict()) == manifest


def test_saving_again_replaces_the_model_and_leaves_one_weights_file(task: Parts, folder: Path) -> None:
    before = read_manifest(folder)
    state = {key: value + 1 for key, value in build_network(task.network, task.schema).state_dict().items()}
    after = save_model(folder, Manifest.describe(task, seed=5), state)
    assert after.sha256 != before.sha256
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", after.weights]
    load_predictor(folder, task, "cpu", batch_size=1)


def changed(task: Parts, **parts: object) -> Parts:
    return replace(task, **parts)  # type: ignore[arg-type]


def renamed(schema: LabelSchema) -> LabelSchema:
    first, *rest = schema
    return LabelSchema((Label("kidney", first.id, first.color, Code("2", "Kidney")), *rest))


def test_a_model_of_another_task_is_refused_with_the_field_and_both_values(task: Parts, folder: Path) -> None:
    cases = {
        r"task = 'brain', this one has 'organs'": changed(task, name="brain"),
        r"labels = \[\['kidney', 7\].*this one has \[\['liver', 7\]": changed(task, schema=renamed(task.schema)),
        r"preprocess.spacing_mm = 1.5, this one has None": changed(
            task, preprocess=PreprocessConfig(spacing_mm=1.5, window_hu=(-160, 240))
        ),
        r"preprocess.window_hu = \[-100.0, 240.0\], this one has \[-160.0, 240.0\]": changed(
            task, preprocess=PreprocessConfig(window_hu=(-100, 240))
        ),
        r"network.context_slices = 0, this one has 1": changed(task, network=NetworkConfig(context_slices=0)),
        r"network.size = 'base', this one has 'tiny'": changed(task, network=NetworkConfig(size="base")),
    }
    for message, other in cases.items():
        with pytest.raises(ManifestMismatch, match=message):
            load_predictor(folder, other, "cpu", batch_size=1)


def test_colours_and_dropout_may_change_without_a_new_model(task: Parts, folder: Path) -> None:
    repainted = LabelSchema(tuple(replace(label, color=(1, 2, 3)) for label in task.schema))
    load_predictor(folder, changed(task, schema=repainted, network=NetworkConfig(dropout=0.3)), "cpu", batch_size=1)


def test_a_manifest_from_before_there_were_kinds_still_fits_the_same_network(task: Parts, folder: Path) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    network = values["network"]
    for name in ("kind", "patch", "strides", "channels", "parts"):
        del network[name]
    for name in ("patch", "pool_padding"):
        del network["architecture"][name]
    (folder / "manifest.json").write_text(json.dumps(values))
    load_predictor(folder, task, "cpu", batch_size=1)
    segresnet = changed(task, network=NetworkConfig(kind="segresnet"))
    with pytest.raises(ManifestMismatch, match=r"network.kind = 'segresnet', this one has 'transunet'"):
        load_predictor(folder, segresnet, "cpu", batch_size=1)


def test_deep_supervision_of_a_kind_that_has_none_may_change_without_a_new_model(task: Parts) -> None:
    plain = NetworkConfig(kind="segresnet", context_slices=0)
    manifest = Manifest.describe(changed(task, network=plain), seed=0)
    manifest.require_fits(changed(task, network=replace(plain, deep_supervision=False)))


PLANNED = NetworkConfig(kind="transunet3d", patch=(16, 32, 32), dropout=0.1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(PLANNED, patch=(16, 48, 48)), r"network.patch = \[16, 48, 48\], this one has \[16, 32, 32\]"),
        (replace(PLANNED, strides=((1, 2, 2), (2, 2, 2))), r"network.strides = \[\[1, 2, 2\], \[2, 2, 2\]\]"),
        (replace(PLANNED, channels=(8, 16, 32)), r"network.channels = \[8, 16, 32\], this one has \[\]"),
        (replace(PLANNED, parts="encoder"), "network.parts = 'encoder', this one has 'both'"),
        (replace(PLANNED, deep_supervision=False), "network.deep_supervision = False"),
        (replace(PLANNED, size="small"), "network.size = 'small', this one has 'tiny'"),
        (replace(PLANNED, kind="dynunet"), "network.kind = 'dynunet', this one has 'transunet3d'"),
    ],
)
def test_a_manifest_holds_what_decides_about_weights_of_every_kind(
    task: Parts, other: NetworkConfig, message: str
) -> None:
    manifest = Manifest.from_dict(Manifest.describe(changed(task, network=PLANNED), seed=0).to_dict())
    manifest.require_fits(changed(task, network=replace(PLANNED, dropout=0.0, context_slices=2)))
    with pytest.raises(ManifestMismatch, match=message):
        manifest.require_fits(changed(task, network=other))


def test_models_of_several_folders_answer_with_the_mean_of_their_probabilities(task: Parts, tmp_path: Path) -> None:
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(build_network(task.network, task.schema).eval())
        save_model(tmp_path / str(seed), Manifest.describe(task, seed=seed), networks[-1].state_dict())
    folders = [tmp_path / "1", tmp_path / "2"]
    predictor = load_ensemble(folders, changed(task, predict=PredictConfig(flips=("rows",))), "cpu", batch_size=4)
    assert predictor.options.flips == ("rows",)
    assert isinstance(predictor.network, Ensemble)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = sum(network(images).softmax(dim=1) for network in networks) / 2
        torch.testing.assert_close(predictor.network(images).softmax(dim=1), expected)
    with pytest.raises(NotFound, match=r"manifest\.json"):
        load_ensemble([*folders, tmp_path / "3"], task, "cpu", batch_size=4)


def test_weights_that_were_changed_or_cut_are_refused(task: Parts, folder: Path) -> None:
    weights = folder / read_manifest(folder).weights
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ManifestMismatch, match="must have the SHA-256"):
        load_predictor(folder, task, "cpu", batch_size=1)
    weights.unlink()
    with pytest.raises(NotFound, match=r"weights .* are missing"):
        load_predictor(folder, task, "cpu", batch_size=1)


def test_weights_of_another_network_under_a_fitting_manifest_are_refused(task: Parts, folder: Path) -> None:
    state = dict(build_network(task.network, task.schema).state_dict())
    state.pop("upsampler.head.bias")
    save_model(folder, Manifest.describe(task, seed=0), state)
    with pytest.raises(ManifestMismatch, match=r"upsampler\.head\.bias"):
        load_predictor(folder, task, "cpu", batch_size=1)


def test_a_weights_file_that_holds_more_than_tensors_is_refused(task: Parts, folder: Path) -> None:
    save_model(folder, Manifest.describe(task, seed=0), {"x": torch.zeros(1)})
    manifest = read_manifest(folder)
    torch.save({"path": folder}, folder / manifest.weights)
    values = json.loads((folder / "manifest.json").read_text())
    values["sha256"] = file_sha256(folder / manifest.weights)
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ManifestMismatch, match="must hold weights"):
        load_predictor(folder, task, "cpu", batch_size=1)


def test_a_folder_without_manifest_or_with_a_broken_one_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"manifest\.json"):
        read_manifest(tmp_path)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ManifestMismatch, match="no valid JSON"):
        read_manifest(folder)
    (folder / "manifest.json").write_text("[1]")
    with pytest.raises(ManifestMismatch, match="must hold a mapping, got a list"):
        read_manifest(folder)
    (folder / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(ManifestMismatch, match="format must be 1, got 2"):
        read_manifest(folder)
    (folder / "manifest.json").write_text('{"format": 1, "task": "organs"}')
    with pytest.raises(ManifestMismatch, match="fields are not those"):
        read_manifest(folder)


def flat_task(schema: LabelSchema, spacing_mm: tuple[float, float, float]) -> Parts:
    """Of thick slices, with the strides that a task file without any gets."""
    plain = NetworkConfig(kind="transunet3d", patch=(16, 32, 32), dropout=0.0)
    preprocess = PreprocessConfig(spacing_mm=spacing_mm, window_hu=(-160, 240))
    return Parts("organs", schema, preprocess, plain.with_strides(spacing_mm))


def test_a_model_from_before_strides_followed_the_spacing_serves_unchanged_but_starts_no_training(
    schema: LabelSchema, tmp_path: Path
) -> None:
    now = flat_task(schema, (7.7, 1.25, 1.25))
    then = changed(now, network=replace(now.network, strides=()))
    torch.manual_seed(0)
    network = build_network(then.network, schema).eval()
    manifest = save_model(tmp_path, Manifest.describe(then, seed=0), network.state_dict())
    assert manifest.network["strides"] == []
    volume = Volume(
        np.random.default_rng(0).normal(40, 50, (16, 32, 32)),
        Geometry.from_spacing((16, 32, 32), (7.7, 1.25, 1.25)),
        "CT",
    )
    asked, expected = (load_predictor(tmp_path, one, "cpu", 1).predict(volume) for one in (now, then))
    np.testing.assert_array_equal(asked.mask.array, expected.mask.array)
    np.testing.assert_array_equal(asked.entropy, expected.entropy)
    with pytest.raises(ManifestMismatch, match=r"network.strides = \[\[1, 2, 2\], .*, this one has \[\]; train again"):
        manifest.require_starts(now)
    other = changed(now, network=replace(now.network, strides=((2, 2, 2), (1, 2, 2))))
    with pytest.raises(ManifestMismatch, match=r"network.strides = \[\[2, 2, 2\], "):
        manifest.require_fits(other)


def test_a_new_model_of_thick_slices_keeps_its_strides_in_the_manifest(schema: LabelSchema, tmp_path: Path) -> None:
    task = flat_task(schema, (7.7, 1.25, 1.25))
    network = build_network(task.network, schema)
    manifest = save_model(tmp_path, Manifest.describe(task, seed=0, files=("ab",)), network.state_dict())
    assert manifest.network["strides"] == [[1, 2, 2], [1, 2, 2], [2, 2, 2]]
    assert manifest.files == ("ab",)
    manifest.require_starts(task)
    load_predictor(tmp_path, task, "cpu", 1)


def test_a_manifest_without_files_loads_and_names_none(folder: Path) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    del values["files"]
    (folder / "manifest.json").write_text(json.dumps(values))
    assert read_manifest(folder).files == ()
