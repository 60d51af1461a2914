"""Which classes each teacher knows, by name."""

from types import SimpleNamespace

from lad.errors import ConfigError, UnsupportedError
from lad.methods.specialists.classes import KnownClasses, find_known_classes
from lad.networks.peer import PeerTeacher

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

CLASSES = ("red", "white", "platelet")


def find(taught, classes=CLASSES, knows=None, num_classes=3, counts=None):
    teachers = {name: SimpleNamespace(classes=own) for name, own in taught.items()}
    counts = counts or {name: len(own) for name, own in taught.items()}
    return find_known_classes("M", classes, num_classes, teachers, counts, knows or {})


def test_overlapping_classes_are_found_in_each_teachers_order():
    known = find(dict(a=("white", "red"), b=("cat", "platelet", "red"), c=CLASSES))
    assert known.known.tolist() == [[True, True, False], [True, False, True], [True, True, True]]
    assert known.index.tolist() == [[1, 0, 0], [2, 0, 1], [0, 1, 2]]
    assert known.teachers == ("a", "b", "c")
    # What the student does not know is its background, behind which comes the teacher's own.
    assert [known.background(number).tolist() for number in range(3)] == [[2], [0, 3], [3]]


@given(st.permutations(CLASSES), st.permutations(["cat", *CLASSES]))
def test_channels_have_the_classes_names_whatever_the_orders(student, teacher):
    known = KnownClasses(student, dict(a=teacher))
    assert [teacher[index] for index in known.index[0]] == list(student)
    assert bool(known.known.all())
    assert sorted(known.background(0).tolist()) == [teacher.index("cat"), 4]


def test_names_of_the_config_are_those_of_a_checkpoint_that_records_none():
    known = find(dict(a=None, b=CLASSES), knows=dict(a=["platelet"]), counts=dict(a=1, b=3))
    assert known.known.tolist() == [[False, False, True], [True, True, True]]
    assert bool(find(dict(a=CLASSES), knows=dict(a=list(CLASSES))).known.all())


def test_without_names_all_teachers_have_the_students_classes_in_its_order():
    known = find(dict(a=None, b=CLASSES), classes=None, counts=dict(a=3, b=3))
    assert torch.equal(known.index, torch.arange(3).repeat(2, 1))
    assert bool(known.known.all())
    assert known.classes == CLASSES
    assert find(dict(a=None), classes=None, counts=dict(a=3)).classes == ("0", "1", "2")


def test_networks_of_the_same_run_know_the_students_classes():
    teachers = dict(peer=PeerTeacher(SimpleNamespace()), a=SimpleNamespace(classes=("red",)))
    known = find_known_classes("M", CLASSES, 3, teachers, dict(peer=3, a=1), {})
    assert known.known.tolist() == [[True] * 3, [True, False, False]]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (dict(taught=dict(a=("red",), b=("white",))), ConfigError, "no teacher knows the class 'platelet'"),
        (
            dict(taught=dict(a=CLASSES, b=None), counts=dict(a=3, b=2)),
            ConfigError,
            r"teacher 'b' records none: add knows=dict\(b=\[...\]\), its 2 classes",
        ),
        (
            dict(taught=dict(a=("red",)), counts=dict(a=2)),
            ConfigError,
            "teacher 'a' has 2 classes, and .* red",
        ),
        (dict(taught=dict(a=CLASSES, b=("cat",))), ConfigError, "'b' knows none of .* trained on cat"),
        (dict(taught=dict(a=("red",)), classes=None), UnsupportedError, "has 3 classes and teacher 'a' 1"),
        (
            dict(taught=dict(a=CLASSES, b=CLASSES[::-1]), classes=None),
            UnsupportedError,
            "teachers 'a' and 'b' were trained on other classes",
        ),
        (
            dict(taught=dict(a=None), counts=dict(a=3), knows=dict(a=("red", "white")), classes=None),
            ConfigError,
            "teacher 'a' has 3 classes, and the names are red, white",
        ),
        (
            dict(taught=dict(a=None), counts=dict(a=3), knows=dict(a=("red", "red", "x")), classes=None),
            ConfigError,
            "teacher 'a' has 3 classes, and the names are red, red, x",
        ),
        (dict(taught=dict(a=CLASSES), classes=("red", "red", "white")), ConfigError, "3 classes once"),
        (dict(taught=dict(a=CLASSES), classes=("red", "white")), ConfigError, "3 classes once"),
        (dict(taught=dict(a=CLASSES), knows=dict(aa=["red"])), ConfigError, "knows names no teacher 'aa'"),
        (
            dict(taught=dict(a=CLASSES), knows=dict(a=CLASSES[::-1])),
            ConfigError,
            "'a' knows platelet, white, red, and its checkpoint that it was trained on red, white, platelet",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused_in_one_line(settings, error, says):
    with pytest.raises(error, match=says) as refused:
        find(**settings)
    assert "\n" not in str(refused.value)
