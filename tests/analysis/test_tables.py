"""Tables of plain text."""

import doctest

from lad.analysis import tables
from lad.analysis.tables import text_table


def test_columns_are_as_wide_as_their_widest_cell_and_aligned():
    text = text_table(["part", "ms"], [("teacher", "12.5"), ("backward", "7.1")], right={1})
    assert text.splitlines() == ["part        ms", "--------------", "teacher   12.5", "backward   7.1"]


def test_columns_of_nothing_but_the_empty_text_are_left_out():
    rows = [("a", "-", "-"), ("b", "-", "x")]
    assert text_table(["one", "two", "three"], rows, empty="-").splitlines()[0] == "one  three"
    assert "two" in text_table(["one", "two", "three"], rows)


def test_cells_are_neither_wrapped_nor_read_as_markup():
    cell = "[bold]:smile: " + "x" * 300
    assert text_table(["cell"], [(cell,)]).splitlines()[2] == cell


def test_example():
    assert doctest.testmod(tables).failed == 0
