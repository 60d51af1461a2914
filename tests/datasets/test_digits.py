from __future__ import annotations

import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lad  # noqa: F401  before mmdet: it answers for mmcv's compiled operators
from lad.datasets import DIGIT_CLASSES, DigitsDataset, DigitsParameters, is_complete, make_digits
from lad.datasets.digits_scenes import CARD_SIDE, MAX_COVERED, VAL_FROM_X, Sources, class_shares, split_digits

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "dataset_converters" / "make_digits.py"
PARAMETERS = DigitsParameters(images=60, val_images=30)
TINY = DigitsParameters(images=3, val_images=2)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run_tool(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *args],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "digits"
    assert make_digits(out, PARAMETERS)
    return out


@pytest.fixture(scope="module")
def annotations(made: Path) -> dict[str, dict]:
    return {s: json.loads((made / "annotations" / f"{s}.json").read_text()) for s in ("train", "val")}


def test_same_bytes_every_time(tmp_path: Path):
    make_digits(tmp_path / "one", TINY)
    tool = run_tool("--out", str(tmp_path / "a" / "b"), "--images=3", "--val-images=2", PYTHONHASHSEED="7")
    assert tool.returncode == 0, tool.stderr
    assert "ETA" in tool.stderr
    assert "5/5" in tool.stderr
    assert hashes(tmp_path / "one") == hashes(tmp_path / "a" / "b")
    assert len(hashes(tmp_path / "one")) == 5 + 2 + 1
    assert str(tmp_path) not in (tmp_path / "one" / "annotations" / "train.json").read_text()

    make_digits(tmp_path / "two", DigitsParameters(images=3, val_images=2, seed=1))
    assert not set(hashes(tmp_path / "one").values()) & set(hashes(tmp_path / "two").values())


def test_an_image_does_not_depend_on_how_many_there_are(made: Path, tmp_path: Path):
    make_digits(tmp_path / "few", TINY)
    pictures = list((tmp_path / "few").rglob("*.png"))
    assert len(pictures) == 5
    for picture in pictures:
        assert picture.read_bytes() == (made / picture.relative_to(tmp_path / "few")).read_bytes()


def test_split_of_digits_is_stratified_and_whole():
    labels = Sources.load().labels
    parts = split_digits(labels, seed=0)
    assert len(labels) == 1797
    np.testing.assert_array_equal(np.sort(np.concatenate([*parts.values()])), np.arange(1797))
    for label in range(10):
        share = np.mean(labels[parts["val"]] == label) / np.mean(labels == label)
        assert share == pytest.approx(1, abs=0.03)
    assert not np.array_equal(parts["val"], split_digits(labels, seed=1)["val"])


def test_splits_share_no_digit_and_no_piece_of_photograph(annotations: dict[str, dict]):
    digits = {s: {a["digit_index"] for a in c["annotations"]} for s, c in annotations.items()}
    assert digits["train"]
    assert digits["val"]
    assert not digits["train"] & digits["val"]
    for split, content in annotations.items():
        assert {image["photo"] for image in content["images"]} == {"china.jpg", "flower.jpg"}
        for image in content["images"]:
            x, y, w, h = image["crop"]
            assert x >= 0
            assert y >= 0
            assert x + w <= 640
            assert y + h <= 427
            assert x + w <= VAL_FROM_X if split == "train" else x >= VAL_FROM_X


def test_the_background_is_the_recorded_crop(made: Path, annotations: dict[str, dict]):
    photos = Sources.load().photos
    for split, content in annotations.items():
        for image in content["images"][:10]:
            pixels = np.asarray(Image.open(made / "images" / split / image["file_name"]).convert("RGB"))
            x, y, w, h = image["crop"]
            crop = photos[image["photo"]][y : y + h, x : x + w]
            crop = crop[:, ::-1] if image["flipped"] else crop
            free = np.ones((h, w), dtype=bool)
            for a in content["annotations"]:
                if a["image_id"] == image["id"]:
                    bx, by, bw, bh = a["bbox"]
                    # The blur carries a card's colour a little way over its edge.
                    free[max(by - 4, 0) : by + bh + 4, max(bx - 4, 0) : bx + bw + 4] = False
            assert np.abs(pixels.astype(int) - crop)[free].mean() < 35


def test_labels_are_those_of_the_digits(annotations: dict[str, dict]):
    labels = Sources.load().labels
    for content in annotations.values():
        names = {category["id"]: category["name"] for category in content["categories"]}
        assert tuple(names.values()) == DIGIT_CLASSES
        assert {names[a["category_id"]] for a in content["annotations"]} == set(DIGIT_CLASSES)
        assert all(names[a["category_id"]] == str(labels[a["digit_index"]]) for a in content["annotations"])


def test_boxes_are_inside_and_hardly_overlap(made: Path, annotations: dict[str, dict]):
    for split, content in annotations.items():
        assert len(content["images"]) == PARAMETERS.count(split)
        per_image = Counter(a["image_id"] for a in content["annotations"])
        assert set(per_image) == {image["id"] for image in content["images"]}
        assert min(per_image.values()) == 1
        assert max(per_image.values()) == 5
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 128
            assert CARD_SIDE[0] <= min(w, h) <= max(w, h) <= CARD_SIDE[1]
            assert a["area"] == w * h
            assert a["iscrowd"] == 0
        for image in content["images"]:
            assert Image.open(made / "images" / split / image["file_name"]).size == (128, 128)
            boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
            for i, (x, y, w, h) in enumerate(boxes):
                for x2, y2, w2, h2 in boxes[:i]:
                    width, height = min(x + w, x2 + w2) - max(x, x2), min(y + h, y2 + h2) - max(y, y2)
                    assert max(width, 0) * max(height, 0) <= MAX_COVERED * min(w * h, w2 * h2)


def test_sources_and_licences_are_named(annotations: dict[str, dict]):
    told = json.dumps([annotations["val"]["info"], annotations["val"]["licenses"]])
    for word in ("UCI", "china.jpg", "flower.jpg", "creativecommons.org/licenses/by/2.0"):
        assert word in told


def test_pycocotools_and_mmdetection_read_it(made: Path):
    coco = COCO(str(made / "annotations" / "val.json"))
    assert len(coco.getImgIds()) == 30
    dataset = DigitsDataset(
        data_root=str(made), ann_file="annotations/val.json", data_prefix={"img": "images/val/"}, pipeline=[]
    )
    assert len(dataset) == 30
    assert len(dataset.metainfo["classes"]) == len(set(dataset.metainfo["palette"])) == 10
    for index in range(30):
        info = dataset.get_data_info(index)
        assert Path(info["img_path"]).is_file()
        expected = coco.loadAnns(coco.getAnnIds(info["img_id"]))
        assert [i["bbox_label"] for i in info["instances"]] == [a["category_id"] - 1 for a in expected]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path):
    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path / "digits", TINY, progress=interrupt)
    assert not list(tmp_path.iterdir())

    make_digits(tmp_path / "digits", TINY)
    before = hashes(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path / "digits", PARAMETERS, force=True, progress=interrupt)
    assert hashes(tmp_path) == before


def test_what_is_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "digits"
    out.mkdir()  # an empty folder is as good as none
    assert make_digits(out, TINY)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not make_digits(out, TINY)
    assert not make_digits(out, TINY, force=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps

    other = DigitsParameters(images=2, val_images=2)
    with pytest.raises(FileExistsError, match="--force"):
        make_digits(out, other)
    assert is_complete(out, TINY)
    assert make_digits(out, other, force=True)
    assert is_complete(out, other)
    assert list(tmp_path.iterdir()) == [out]

    (out / "images" / "val" / "000001.png").write_bytes(b"cut short")
    assert not is_complete(out, other)
    with pytest.raises(FileExistsError):
        make_digits(out, other)
    assert make_digits(out, other, force=True)

    monkeypatch.chdir(out)
    with pytest.raises(FileExistsError, match="working"):
        make_digits(tmp_path, TINY, force=True)


@pytest.fixture
def tool_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run the tool in this process: a new one takes seconds to import MMDetection."""

    def run(*args: str) -> object:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *args])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as stop:
            return stop.code
        return 0

    return run


@pytest.mark.parametrize(
    ("name", "option", "reason"),
    [
        ("digits", "--seed=3", "--force"),
        ("file", "--force", "not a folder"),
        ("x", "--size=500", "64 to 192"),
    ],
)
def test_the_tool_fails_in_one_line(tool_here, tmp_path: Path, name: str, option: str, reason: str, capsys):
    make_digits(tmp_path / "digits", TINY)
    (tmp_path / "file").touch()
    # A string as the exit code: Python prints it to stderr and exits with 1.
    message = tool_here("--out", str(tmp_path / name), option)
    assert isinstance(message, str)
    assert message.startswith("make_digits: error: ")
    assert "\n" not in message
    assert reason in message
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "file"}


def test_the_tool_says_when_there_is_nothing_to_do(tool_here, made: Path, capsys):
    assert tool_here("--out", str(made), "--images=60", "--val-images=30") == 0
    told = capsys.readouterr()
    assert "complete already" in told.out
    assert told.err == ""


@pytest.mark.parametrize(
    "wrong", [{"images": 0}, {"val_images": 0}, {"size": 63}, {"size": 193}, {"seed": -1}]
)
def test_wrong_parameters(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=r"image|size|seed"):
        DigitsParameters(**wrong)


def test_training_classes_have_a_long_tail_and_validation_stays_balanced(tmp_path: Path):
    make_digits(tmp_path / "tail", DigitsParameters(images=150, val_images=9, size=64, imbalance=20))
    coco = json.loads((tmp_path / "tail/annotations/train.json").read_text())
    counted = Counter(annotation["category_id"] - 1 for annotation in coco["annotations"])
    counts = np.array([counted[digit] for digit in range(10)])
    # Each within four standard deviations of its binomial.
    expected = counts.sum() * class_shares(10, 20)
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected) + 1).all()
    assert counts[0] > 5 * counts[9]
    # Validation images are those without an imbalance, to the bit.
    make_digits(tmp_path / "flat", DigitsParameters(images=1, val_images=9, size=64))
    tail, flat = (hashes(tmp_path / name / "images/val") for name in ("tail", "flat"))
    assert tail == flat


def test_shares_fall_exponentially_by_the_imbalance():
    np.testing.assert_allclose(class_shares(3, 100), np.array([1, 0.1, 0.01]) / 1.11)
    np.testing.assert_allclose(class_shares(4, 1), 0.25)


def test_without_imbalance_the_files_are_those_of_before(tmp_path: Path):
    make_digits(tmp_path / "digits", TINY)
    manifest = json.loads((tmp_path / "digits/manifest.json").read_text())
    assert manifest["parameters"] == dict(images=3, val_images=2, size=128, seed=0)
    assert is_complete(tmp_path / "digits", TINY)
    assert not is_complete(tmp_path / "digits", DigitsParameters(images=3, val_images=2, imbalance=2))


@pytest.mark.parametrize("imbalance", [0.5, -1, float("nan"), float("inf")])
def test_imbalance_below_one_or_not_finite_is_refused(imbalance: float):
    with pytest.raises(ValueError, match="imbalance must be at least 1"):
        DigitsParameters(imbalance=imbalance)
