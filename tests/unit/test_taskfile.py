import pytest
import yaml

from lib.core.errors import InvalidTask
from lib.taskfile import TASKS_FOLDER, load_task, write_task

BTCV = (
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal gland", "left adrenal gland",
)  # fmt: skip

GOOD = """\
name: brain_mr
description: Tumours
modalities: [MR]
labels:
  - {name: core, id: 1, color: [255, 0, 0], code: {value: "52988006", meaning: Lesion}}
  - name: edema
    id: 2
    color: [0, 255, 0]
    code: {value: "79654002", meaning: Edema}
network: {size: tiny}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "brain.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", sorted(TASKS_FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_each_shipped_task_loads_under_its_name(path):
    assert load_task(path.stem).name == path.stem


def test_abdomen_ct_has_the_13_organs_of_btcv_in_their_order():
    assert load_task("abdomen_ct").schema.names == BTCV
    assert load_task("abdomen_ct").schema.ids == tuple(range(1, 14))


def test_a_task_of_ones_own_is_read_from_its_path(write):
    task = load_task(write(GOOD))
    assert task.schema.names == ("core", "edema")
    assert task.labels[1].color == (0, 255, 0)
    assert task.common_labels == ("core", "edema")
    assert load_task(write(GOOD + "rare: [Edema]\n")).common_labels == ("core",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    id: 2\n", "    id: two\n", r"brain.yaml:7: labels.1.id: .*integer.*'two'"),
        ("    id: 2\n", "    id: 1\n", r"own id, got 1 twice"),
        ("    id: 2\n", "", r"brain.yaml:6: labels.1.id: Field required"),
        ("network: {size: tiny}", "network: {sise: tiny}", r"brain.yaml:10: unknown key 'network.sise'"),
        ("network: {size: tiny}", "network: {size: huge}", r"brain.yaml:10: network: network.size of .* must .*'huge'"),
        ("network:", "networks:", r"brain.yaml:10: unknown key 'networks'"),
        ("modalities: [MR]", "modalities: []", "at least one DICOM modality"),
        ("name: brain_mr", "name: Brain MR", "lower-case letters"),
        ("[0, 255, 0]", "[0, 256, 0]", "brain.yaml:6: labels.1: .*0 to 255"),
        ("network: {size: tiny}", "series_description: '('", "regular expression"),
        ("network: {size: tiny}", "rare: [cyst]", r"rare must name labels among \['core', 'edema'\], got \['cyst'\]"),
        ("labels:", "labels: {", "no valid YAML"),
    ],
)
def test_a_wrong_task_file_is_refused_with_line_and_reason(write, old, new, message):
    with pytest.raises(InvalidTask, match=message):
        load_task(write(GOOD.replace(old, new)))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InvalidTask, match=r"tasks here: abdomen_ct, .*phantom_ct"):
        load_task("liver_mr")


def test_a_series_of_another_modality_or_description_is_not_for_the_task():
    task = load_task("phantom_ct")
    assert task.why_not("CT", "Abdomen PHANTOM 3 mm") is None
    assert "takes CT, the series is MR" in task.why_not("MR", "phantom")
    assert "'phantom', got 'Thorax'" in task.why_not("CT", "Thorax")


@pytest.mark.parametrize("path", sorted(TASKS_FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_a_task_that_is_written_reads_back_equal(path, tmp_path):
    task = load_task(path)
    write_task(task, tmp_path / "again.yaml", {})
    assert load_task(tmp_path / "again.yaml") == task
    assert [file.name for file in tmp_path.iterdir()] == ["again.yaml"]


def test_a_written_task_gives_its_reasons_beside_the_values_or_above_where_they_are_long(write, tmp_path):
    task, long = load_task(write(GOOD)), "long reasons " * 12
    comments = {"": "Made by hand.", "network.size": "for CPUs", "labels.0": "in all cases", "training.steps": long}
    write_task(task, tmp_path / "task.yaml", comments)
    lines = (tmp_path / "task.yaml").read_text().splitlines()
    assert lines[0] == "# Made by hand."
    assert "  size: tiny                    # for CPUs" in lines
    above = lines.index("  steps: 600")
    assert lines[above - 2].startswith("  # long reasons")
    assert lines[above - 1].startswith("  # ")
    assert max(map(len, lines)) <= 120
    assert "predict:" not in lines  # nothing to say
    with pytest.raises(InvalidTask, match=r"ends in .yaml or .yml, got 'task.txt'"):
        write_task(task, tmp_path / "task.txt", {})


def test_shipped_tasks_do_not_repeat_a_color():
    for path in TASKS_FOLDER.glob("*.yaml"):
        colors = [tuple(label["color"]) for label in yaml.safe_load(path.read_text())["labels"]]
        assert len(set(colors)) == len(colors), path.stem
