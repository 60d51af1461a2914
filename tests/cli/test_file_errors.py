"""What the operating system refuses of files and folders is one line."""

import errno
import os
import runpy
import sys

from lad.cli.file_errors import explain_file_error
from lad.cli.messages import one_line_errors
from lad.datasets import DigitsParameters, make_digits

import pytest
from helpers import ROOT


def line_of(capsys, action):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        action()
    assert stop.value.code == 2
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    return out


@pytest.mark.parametrize("below", ["", "run", "run/of/today"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, capsys, below):
    file = tmp_path / "work dir"
    file.touch()
    line = line_of(capsys, lambda: (file / below).mkdir(parents=True, exist_ok=True))
    assert line == (
        f"error: {file} is a file, and a folder is needed there: name another place (LAD_TRACEBACK=1 shows where).\n"
    )
    assert file.is_file()


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path, capsys):
    assert f"{tmp_path}: Is a directory" in line_of(capsys, lambda: tmp_path.write_text(""))


def test_a_name_that_is_too_long_is_named(tmp_path, capsys):
    assert "File name too long" in line_of(capsys, lambda: (tmp_path / ("x" * 300)).touch())


def test_a_path_of_bytes_is_shown_as_text(tmp_path, capsys):
    missing = os.fsencode(tmp_path / "missing")
    assert line_of(capsys, lambda: os.stat(missing)).startswith(f"error: {tmp_path}/missing: No such file")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_one_line(capsys):
    def write():
        with open("/dev/full", "w") as full:
            full.write("x")

    assert line_of(capsys, write) == "error: No space left on device (LAD_TRACEBACK=1 shows where).\n"


@pytest.mark.parametrize("code", [errno.EIO, errno.ECONNREFUSED, errno.EINVAL, None])
def test_other_errors_of_the_system_keep_their_traceback(code):
    error = OSError(code, "defect") if code else OSError("defect")
    assert explain_file_error(error) is None
    with pytest.raises(OSError, match="defect"), one_line_errors():
        raise error


def test_with_a_traceback_the_error_is_raised(monkeypatch, tmp_path):
    monkeypatch.setenv("LAD_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError), one_line_errors():
        (tmp_path / "missing").read_text()


@pytest.mark.parametrize("tool", ["train.py", "benchmark.py", "demo.py"])
def test_tools_name_a_work_dir_that_is_a_file(tool, tmp_path, monkeypatch, capsys):
    file = tmp_path / "work"
    file.write_text("mine")
    command = dict(benchmark=["run", "digits"]).get(tool.removesuffix(".py"), [])
    options = []
    if tool == "train.py":
        make_digits(tmp_path / "digits", DigitsParameters(images=4, val_images=2))
        command = ["configs/lad/paa_r18-c16_fpn_digits.py"]
        roots = (
            f"{name}_dataloader.dataset.data_root={tmp_path}/digits/" for name in ("train", "val", "test")
        )
        options = ["--cfg-options", *roots, f"val_evaluator.ann_file={tmp_path}/digits/annotations/val.json"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [tool, *command, "--work-dir", str(file), *options])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    assert stop.value.code == 2
    assert f"error: {file} is a file, and a folder is needed there" in capsys.readouterr().err
    assert file.read_text() == "mine"
