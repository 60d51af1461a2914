"""`lad federate` and `lad split-clients`: exit codes and what they say."""

import json
import sys

from lad.commands import federate, split_clients

import pytest
from federation import WITHOUT_VALIDATION, make_data, write_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("federation"))


def run(module, monkeypatch, capsys, *arguments):
    """Exit code and errors of a command."""
    monkeypatch.setattr(sys, "argv", ["lad", *map(str, arguments)])
    code = 0
    try:
        module.main()
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def test_federation_that_trains_nothing_exits_with_an_error_that_quotes_the_first_failure(
    data, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("flwr", reason="the extra federated")
    from lad.federated import apps

    def fails(config, folder, log):
        log.write_text("error: no room\n")
        return 2

    monkeypatch.setattr(apps, "run_training", fails)
    config = write_config(data, tmp_path / "config.py", WITHOUT_VALIDATION)
    code, error = run(federate, monkeypatch, capsys, config, "--work-dir", tmp_path / "work", "--in-process")
    assert code == 2
    last = error.splitlines()[-1]
    assert last.startswith("error: round 1: no client has sent weights that count")
    assert "client a: round 1 ended with exit code 2: error: no room" in last


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_annotation_that_belongs_nowhere_is_no_traceback(data, tmp_path, monkeypatch, capsys, key):
    content = json.loads((data / "a.json").read_text())
    del content["annotations"][0][key]
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    code, error = run(split_clients, monkeypatch, capsys, path, "--out", tmp_path / "out", "--dirichlet", 1)
    assert code == 2
    assert f"annotations have no {key}" in error
    assert "broken.json: 1 of " in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alpha", ["inf", "nan"])
def test_concentration_that_is_no_number_is_refused(data, tmp_path, monkeypatch, capsys, alpha):
    path = data / "digits/annotations/train.json"
    code, error = run(
        split_clients, monkeypatch, capsys, path, "--out", tmp_path / "out", "--dirichlet", alpha
    )
    assert code == 2
    assert f"alpha must be above 0 and finite, got {alpha}" in error
