"""Messages of a running suite and its status line."""

import io

from lad.base.status import StatusDisplay

from rich.console import Console


def display(is_terminal):
    lines = []
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=30, color_system=None)
    return StatusDisplay(lines.append, console), lines, console.file


def test_a_status_is_updated_in_place_on_a_terminal_and_removed_for_messages():
    status, lines, terminal = display(True)
    status.show("[1/2] lad/seed_0 epoch 1")
    status.show("[1/2] lad/seed_0 epoch 2")
    status.message("lad seed 0: mAP 0.5")
    shown = terminal.getvalue()
    assert lines == ["lad seed 0: mAP 0.5"]
    assert "[1/2] lad/seed_0 epoch 1" in shown
    # Erased: the code that clears a line is the last thing that was written.
    assert shown.rindex("\x1b[2K") > shown.rindex("epoch 2")


def test_a_status_is_a_message_once_a_minute_elsewhere(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("lad.base.status.time.monotonic", lambda: now[0])
    status, lines, file = display(False)
    for now[0] in (1000.0, 1030.0, 1059.0, 1061.0):
        status.show(f"at {now[0]:.0f}")
    assert lines == ["at 1000", "at 1061"]
    assert file.getvalue() == ""
