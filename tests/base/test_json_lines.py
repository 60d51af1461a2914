"""The last line of a file of JSON lines is whole before the next one."""

from lad.base.json_lines import end_last_line

import pytest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}\n{"b": ', b'{"a": 1}\n'),
        (b'{"a', b""),
        (b'{"a": 1}\n{"b": "\xc3', b'{"a": 1}\n'),
        (b"\n", b"\n"),
    ],
)
def test_last_line(before, after, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(before)
    with open(path, "ab+") as file:
        end_last_line(file)
        file.write(b"3\n")
    assert path.read_bytes() == after + b"3\n"
