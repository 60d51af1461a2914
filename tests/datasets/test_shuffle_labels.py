"""Classes of a COCO file dealt out anew among its boxes."""

import importlib.util
import json
import sys
from collections import Counter

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools/dataset_converters/shuffle_labels.py"
    spec = importlib.util.spec_from_file_location("shuffle_labels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(tmp_path):
    boxes = [
        dict(id=number, image_id=number // 5, bbox=[number, 0, 5, 5], category_id=1 + (number % 10) // 6)
        for number in range(100)
    ]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(dict(images=[], categories=[dict(id=1, name="a")], annotations=boxes)))
    return path


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["shuffle_labels.py", *map(str, arguments)])
    tool.main()


def test_classes_move_and_everything_else_stays(tool, file, monkeypatch, capsys):
    out = file.with_name("out.json")
    run(tool, monkeypatch, file, out)
    assert "100 boxes" in capsys.readouterr().out
    before, after = (json.loads(path.read_text()) for path in (file, out))
    classes = [[one.pop("category_id") for one in content["annotations"]] for content in (before, after)]
    assert Counter(classes[0]) == Counter(classes[1])
    # By chance 0.6^2 + 0.4^2 = 52 of 100 keep their class.
    assert 35 < sum(a == b for a, b in zip(*classes, strict=True)) < 70
    assert before == after


def test_seed_decides(tool, file):
    content = json.loads(file.read_text())
    assert (
        tool.shuffle_labels(content, 1) == tool.shuffle_labels(content, 1) != tool.shuffle_labels(content, 2)
    )
    assert content == json.loads(file.read_text())


@pytest.mark.parametrize(
    ("source", "says"), [("train.json", "is the file itself"), ("x.json", "there is no")]
)
def test_the_file_itself_is_never_overwritten_and_must_exist(source, says, tool, file, monkeypatch, capsys):
    text = file.read_text()
    with pytest.raises(SystemExit) as stopped:
        run(tool, monkeypatch, file.with_name(source), file)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a JSON file"),
        ("[]", "it holds a list, not a dict"),
        ('{"images": [], "annotations": []}', "it has no list of categories"),
        (
            '{"images": [], "annotations": [{"id": 4}], "categories": []}',
            "have no category_id that is a number",
        ),
    ],
)
def test_files_that_cannot_be_used_are_one_line_and_write_nothing(
    text, says, tool, file, monkeypatch, capsys
):
    file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        run(tool, monkeypatch, file, file.with_name("out.json"))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not file.with_name("out.json").exists()


def test_a_negative_seed_is_refused(tool, file, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tool, monkeypatch, file, file.with_name("out.json"), "--seed", -1)
    assert stopped.value.code == 2
    assert "--seed must be at least 0, got -1" in capsys.readouterr().err
