from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from lib.core.errors import InvalidSettings
from lib.settings import DEFAULTS, Settings, environment_of, load_settings


def load(conf=(), environ=None, path=None) -> Settings:
    return load_settings(conf, environ or {}, path)


def test_the_later_source_wins(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("query: {lease_s: 10, seed: 1, strategy: random}\n")
    environ = {"TRANSUNET_CONFIG": str(own), "TRANSUNET_QUERY__SEED": "2", "TRANSUNET_QUERY__LEASE_S": "20"}
    found = load([("query.seed", "3")], environ).query
    assert (found.strategy, found.lease_s, found.seed) == ("random", 20, 3)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (("archive.uri", "x"), r"--conf \(archive.uri\): unknown option 'archive.uri'; known here: .*url"),
        (("worker.threads", "many"), r"--conf \(worker.threads\): worker.threads: .*integer.*'many'"),
        (("review.mode", "maybe"), r"'auto' or 'required'"),
        (("ledger.splits.test", "0.1"), "unknown option 'ledger.splits.test'"),
    ],
)
def test_a_wrong_option_is_refused_with_its_name_and_place(conf, message):
    with pytest.raises(InvalidSettings, match=message):
        load([conf])


def test_a_secret_in_a_file_is_refused_with_the_variable_to_use(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("archive: {password: hunter2}\n")
    with pytest.raises(InvalidSettings, match="TRANSUNET_ARCHIVE__PASSWORD") as refused:
        load(path=own)
    assert "hunter2" not in str(refused.value)


def test_secrets_are_not_printed():
    found = load(environ={"TRANSUNET_ARCHIVE__PASSWORD": "hunter2", "TRANSUNET_SERVER__PASSWORD": "hunter3"})
    assert "hunter" not in repr(found)


@pytest.mark.parametrize("password", ["0123", "yes", "null", "a: b", "[x", "", "  "])
def test_a_text_option_is_taken_letter_by_letter(password):
    assert load(environ={"TRANSUNET_ARCHIVE__PASSWORD": password}).archive.password == password


def test_a_list_may_be_written_with_commas():
    assert load(environ={"TRANSUNET_TASKS": "phantom_ct, hippocampus_mr"}).tasks == ("phantom_ct", "hippocampus_mr")
    assert load([("tasks", '["phantom_ct"]')]).tasks == ("phantom_ct",)


def test_other_variables_of_that_prefix_are_left_alone():
    load(environ={"TRANSUNET_DATA": "/data", "TRANSUNET_DATABASE": "x"})


def test_a_child_process_gets_the_very_same_settings(tmp_path):
    conf = [("var", str(tmp_path)), ("tasks", "abdomen_ct"), ("server.port", "0"), ("server.allowed_hosts", "a,b")]
    settings = load(conf, {"TRANSUNET_ARCHIVE__PASSWORD": "0x1"})
    assert load(environ=environment_of(settings)) == settings


def test_every_option_stands_in_the_default_file_with_a_comment():
    tree = yaml.safe_load(DEFAULTS.read_text())
    lines = DEFAULTS.read_text().splitlines()
    for section in fields(Settings):
        if not is_dataclass(section.type):
            continue
        assert set(tree[section.name]) == {option.name for option in fields(section.type)}
    undocumented = [line for line in lines if line.startswith("  ") and ":" in line and "#" not in line]
    assert undocumented == []


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("- a\n")
    with pytest.raises(InvalidSettings, match="sections with keys, got list"):
        load(path=own)
    with pytest.raises(InvalidSettings, match="readable YAML"):
        load(path=Path(tmp_path / "absent.yaml"))


def test_the_default_state_folder_does_not_depend_on_where_a_command_runs(tmp_path, monkeypatch):
    here = load().var
    monkeypatch.chdir(tmp_path)
    assert load().var == here
    assert load(environ={"TRANSUNET_VAR": "own"}).var == tmp_path / "own"


def test_a_password_inside_an_address_is_refused_in_a_file(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("ledger: {url: 'postgresql+psycopg://u:hunter2@db/ledger'}\n")
    with pytest.raises(InvalidSettings, match="TRANSUNET_LEDGER__URL") as refused:
        load(path=own)
    assert "hunter2" not in str(refused.value)
    own.write_text("ledger: {url: 'postgresql+psycopg://u@db/ledger'}\n")
    assert load(path=own).ledger.url == "postgresql+psycopg://u@db/ledger"


@pytest.mark.parametrize("name", ["TRANSUNET_ARCHIVE_URL", "TRANSUNET_SERVER_PASSWORD"])
def test_a_variable_with_one_underscore_is_refused_with_the_name_that_was_meant(name):
    section, key = name.split("_")[1:]
    with pytest.raises(InvalidSettings, match=f"is TRANSUNET_{section}__{key} meant"):
        load(environ={name: "x"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("ingest.poll_s", "0"),
        ("worker.threads", "0"),
        ("worker.attempts", "0"),
        ("query.lease_s", "-1"),
        ("query.strategy", "entropyy"),
        ("retrain.tolerance", "-5"),
        ("archive.url", "http://tu:hunter2@orthanc:8042"),
    ],
)
def test_a_value_out_of_range_is_refused_and_no_secret_is_shown(option, value):
    with pytest.raises(InvalidSettings, match=option) as refused:
        load([(option, value)])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("option", ["query.strategy", "selection.quantity"])
@pytest.mark.parametrize("name", ["bald", "disagreement"])
def test_what_compares_samples_is_refused_where_a_model_answers_once(option, name):
    with pytest.raises(
        InvalidSettings, match=f"{option} {name} needs samples: set uncertainty.kind to dropout, tta or ensemble"
    ):
        load_settings([(option, name)], environ={})
    for kind in ("dropout", "tta", "ensemble"):
        section, key = option.split(".")
        made = load_settings([(option, name), ("uncertainty.kind", kind)], environ={})
        assert getattr(getattr(made, section), key) == name
