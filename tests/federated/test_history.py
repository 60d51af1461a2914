"""Rounds, forgetting, and the file that keeps them."""

from lad.analysis.pictures.rounds import draw_rounds
from lad.errors import DataError
from lad.federated.history import (
    ClientReport,
    History,
    Round,
    forgetting,
    mean_forgetting,
    read_history,
)

import pytest


def evaluated(number, mean, **classes):
    metrics = {"coco/bbox_mAP": mean, **{f"coco/{name}_precision": value for name, value in classes.items()}}
    return Round(number, metrics, dict(a=ClientReport(7, 1.5, 2.0)), ("client b died",), 3.0)


ROUNDS = [
    evaluated(0, 0.25, cat=0.5, dog=0.0),
    evaluated(1, 0.5, cat=0.75, dog=0.25),
    evaluated(2, 0.375, cat=0.25, dog=0.5),
]


def test_forgetting_is_the_fall_from_the_best_round():
    assert forgetting([each.by_class for each in ROUNDS]) == dict(cat=0.5, dog=0.0)
    assert mean_forgetting(ROUNDS) == 0.25
    assert mean_forgetting(ROUNDS[:2]) == 0.0


def test_without_evaluation_there_is_none():
    assert forgetting([]) == {}
    assert mean_forgetting([]) is None
    assert mean_forgetting([Round(1)]) is None
    assert Round(1).mean_precision is None


def test_classes_without_objects_in_the_validation_data_do_not_count():
    metrics = {"coco/bbox_mAP": 0.5, "coco/cat_precision": 0.5, "coco/dog_precision": float("nan")}
    assert Round(1, metrics).by_class == dict(cat=0.5)
    assert Round(1, {"coco/dog_precision": -1.0}).by_class == {}


def test_file_gives_back_what_was_written(tmp_path):
    assert read_history(tmp_path) is None
    history = History("abc", 3, "config", ROUNDS)
    history.write(tmp_path)
    again = read_history(tmp_path)
    assert again.describe_last(8) == history.describe_last(8)
    assert [each.by_class for each in again.rounds] == [each.by_class for each in ROUNDS]
    assert (again.federation, again.seed, again.config, again.last) == ("abc", 3, "config", 2)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"federation": "a", "seed": 0, "config": "", "rounds": [{}]}']
)
def test_broken_file_is_one_line(tmp_path, content):
    (tmp_path / "federation.json").write_text(content)
    with pytest.raises(DataError, match="is no history of a federation"):
        read_history(tmp_path)


def test_line_of_a_round():
    line = History("abc", 0, "", ROUNDS).describe_last(4)
    assert line.startswith(
        "round 2/4: mAP 0.375, forgetting 0.250, a 7 images loss 1.500, 3 s, about 0:06 left"
    )
    assert History("abc", 0, "", [Round(0)]).describe_last(4) == "round 0/4: no evaluation"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_picture(tmp_path, suffix):
    draw_rounds(ROUNDS, tmp_path / f"rounds{suffix}")
    again = tmp_path / f"again{suffix}"
    draw_rounds(ROUNDS, again)
    if suffix == ".png":
        assert again.read_bytes() == (tmp_path / f"rounds{suffix}").read_bytes()
    if suffix == ".svg":
        text = again.read_text()
        assert all(f"<!-- {label} -->" in text for label in ("mAP", "AP cat", "AP dog", "mean forgetting"))


def test_picture_of_nothing_and_of_another_format_are_refused(tmp_path):
    with pytest.raises(DataError, match="nothing to draw"):
        draw_rounds([Round(1)], tmp_path / "rounds.png")
    with pytest.raises(DataError, match=r"\.png"):
        draw_rounds(ROUNDS, tmp_path / "rounds.gif")
