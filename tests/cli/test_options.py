"""Reading ``--cfg-options``: values, and mistakes in one line."""

import argparse

from lad.cli.options import add_config_options, add_hours

import pytest


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="tool")
    add_config_options(parser)
    return parser.parse_args(["--cfg-options", *arguments] if arguments else []).cfg_options


def test_values_are_those_that_mmengine_reads():
    assert parse("a.b=3", "c=[8,11]", "d=x=y", "e=(1,2.5)", "f=None") == {
        "a.b": 3,
        "c": [8, 11],
        "d": "x=y",
        "e": (1, 2.5),
        "f": None,
    }
    assert parse() is None


@pytest.mark.parametrize(
    "argument",
    [
        "custom_hooks=[dict(type=EMAHook,momentum=x)]",
        "a=[1,(2]",
        "a",
        "hooks=[{x:1},dict(a=(1,2))]",
        "x=[dict(a=1,b=2)]",
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(argument, capsys):
    with pytest.raises(SystemExit) as ended:
        parse("b=1", argument)
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"tool: error: --cfg-options: {argument!r} cannot be read; it must be like")


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "soon"])
def test_hours_are_a_positive_number(hours, capsys):
    parser = argparse.ArgumentParser()
    add_hours(parser, "")
    assert parser.parse_args(["--hours", "1.5"]).hours == 1.5
    with pytest.raises(SystemExit):
        parser.parse_args([f"--hours={hours}"])
    assert f"must be a positive number, got '{hours}'" in capsys.readouterr().err
