"""Positives, changes and costs are where they belong in the picture."""

import sys
from dataclasses import replace

from lad.analysis.pictures.assignment_drawing import draw_assignment, save_assignment
from lad.analysis.pictures.assignment_picture import AssignmentPicture, Candidates, Mixture, Panel
from lad.analysis.pictures.levels import COLOURS, level_name
from lad.analysis.pictures.sheet import fitting_size

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.stats import norm

MIXTURE = Mixture(np.array([0.5, 2.0]), np.array([0.2, 0.5]), np.array([0.3, 0.7]))


def candidates(positive, mixture=MIXTURE):
    """Two priors of level 0 and one of level 1 about (50, 50)."""
    centres = np.array([[44.0, 50.0], [56.0, 50.0], [50.0, 44.0]])
    return Candidates(
        priors=np.concatenate([centres - 4, centres + 4], axis=1),
        levels=np.array([0, 0, 1]),
        costs=np.array([0.4, 0.6, 2.0]),
        positive=np.array(positive, dtype=bool),
        mixture=mixture,
        threshold=None if mixture is None else 0.6,
    )


def make_picture(*of_panels, changed=None, objects=1):
    panels = tuple(
        Panel(f"panel {number}", (candidates(positive),) * objects)
        for number, positive in enumerate(of_panels)
    )
    return AssignmentPicture(
        name="image.png",
        image=np.full((100, 100, 3), 128, dtype=np.uint8),
        bboxes=np.array([[35.0, 35.0, 65.0, 65.0]] * objects),
        labels=("cat",) * objects,
        strides=(8, 16),
        cost="loss",
        panels=panels,
        changed=changed,
    )


def count(image, colour):
    """Pixels of about a colour."""
    return int((np.abs(image / 255 - to_rgb(colour)).max(-1) < 0.03).sum())


def crop(image, column):
    """The part of a picture of one object that shows it in one panel."""
    return image[380:660, 10 + column * 314 : 310 + column * 314]


def test_each_panel_shows_its_own_positives():
    image = draw_assignment(make_picture([1, 1, 0], [0, 0, 1], [0, 0, 0]))
    seen = [[count(crop(image, column), colour) > 30 for colour in COLOURS[:2]] for column in range(3)]
    assert seen == [[True, False], [False, True], [False, False]]


def test_new_positives_have_a_ring_and_dropped_ones_a_cross():
    same = draw_assignment(make_picture([1, 1, 0], [1, 1, 0], [1, 1, 0], changed=(0, 2)))
    other = draw_assignment(make_picture([1, 1, 0], [1, 1, 0], [1, 0, 1], changed=(0, 2)))
    white = [count(crop(image, 2), "white") for image in (same, other)]
    assert white[1] > white[0] + 200
    assert (crop(same, 0) == crop(other, 0)).all()


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_dropped_prior_and_a_positive_of_another_level_in_one_place_are_both_seen(dropped):
    """The positive's marker is whole, and the cross in its level's colour sticks out."""
    priors = np.array([[46.0, 46.0, 54.0, 54.0], [42.0, 42.0, 58.0, 58.0]])
    both, one = np.array([True, True]), np.arange(2) != dropped
    alone, kept = (Candidates(priors, np.arange(2), np.zeros(2), positive) for positive in (both, one))
    picture = replace(
        make_picture([1, 0, 0]), panels=(Panel("alone", (alone,)), Panel("LAD", (kept,))), changed=(0, 1)
    )
    compared = crop(draw_assignment(picture), 1)
    plain = crop(draw_assignment(replace(picture, changed=None)), 1)
    colour = COLOURS[1 - dropped]
    assert count(compared, colour) == count(plain, colour) > 20
    assert count(compared, COLOURS[dropped]) > count(plain, COLOURS[dropped]) + 30


def test_changes_are_priors_that_differ_and_most_changed_objects_come_in_order():
    picture = make_picture([1, 1, 0], [0, 0, 0], [1, 0, 1], changed=(0, 2), objects=3)
    assert picture.num_changes.tolist() == [2, 2, 2]
    assert make_picture([1, 1, 0], [0, 0, 0], [1, 0, 1]).num_changes.tolist() == [2]  # of the first two
    assert make_picture([1, 1, 0]).num_changes.tolist() == [0]
    panels = (
        Panel("a", tuple(candidates([1, 0, 0]) for _ in range(3))),
        Panel("b", tuple(candidates(positive) for positive in ([1, 0, 0], [1, 1, 0], [0, 1, 1]))),
    )
    picture = AssignmentPicture(
        picture.name, picture.image, picture.bboxes, picture.labels, (8, 16), "loss", panels
    )
    assert picture.num_changes.tolist() == [0, 1, 3]
    assert picture.most_changed(2) == [1, 2]
    assert picture.most_changed(9) == [0, 1, 2]


def test_density_of_a_mixture():
    values = np.linspace(-1, 4, 9)
    expected = [0.3 * norm.pdf(values, 0.5, 0.2), 0.7 * norm.pdf(values, 2.0, 0.5)]
    np.testing.assert_allclose(MIXTURE.density(values), expected)


def test_a_needle_leaves_a_third_of_the_height_to_the_other_component():
    # Peaks at 0.5 / (0.01 sqrt(2 pi)) and 0.5 / (1 sqrt(2 pi)), 100 : 1.
    needle = Mixture(np.array([0.0, 2.0]), np.array([1.0, 0.01]), np.array([0.5, 0.5]))
    np.testing.assert_allclose(needle.curves(np.array([0.0, 1.0, 2.0]))[0], np.exp([0, -0.5, -2]) / 3)
    np.testing.assert_allclose(needle.curves(np.array([1.99, 2.0]))[1], [np.exp(-0.5), 1])


def test_curves_less_different_than_that_keep_their_ratio():
    # Peaks at 0.3 / 0.2 and 0.7 / 0.5 by the same factor.
    np.testing.assert_allclose(MIXTURE.curves(MIXTURE.means).max(1), [1, 1.4 / 1.5], rtol=1e-4)


def test_a_long_line_is_set_smaller_and_a_short_one_is_not():
    text = "5 positive, taught by small (P3), big (P4)"
    assert fitting_size("5 positive", 10.5, 300) == 10.5
    assert 9 < fitting_size(text, 10.5, 300) < 10.5
    assert fitting_size(text, 10.5, 150) == pytest.approx(fitting_size(text, 10.5, 300) / 2)
    assert fitting_size(text, 10.5, 150, weight="bold") < fitting_size(text, 10.5, 150)
    assert fitting_size("", 10.5, 300) == 10.5


def test_who_taught_has_a_line_of_its_own():
    plain = make_picture([1, 1, 0])
    panel = replace(plain.panels[0], taught_by=(("small", "big"),))
    taught = draw_assignment(replace(plain, panels=(panel,)))
    assert taught.shape[0] == draw_assignment(plain).shape[0] + 17


def test_cheapest_candidates_keep_all_positives():
    own = candidates([0, 0, 1]).cheapest(1)
    assert own.costs.tolist() == [0.4, 2.0]
    assert own.positive.tolist() == [False, True]


def test_fields_must_fit_together():
    with pytest.raises(ValueError, match=r"1 priors with costs of shape \(2,\)"):
        Candidates(np.zeros((1, 4)), np.zeros(1), np.zeros(2), np.zeros(1, bool))


@pytest.mark.parametrize(("stride", "name"), [(8, "P3"), (128, "P7"), (10, "/10")])
def test_levels_are_named_by_their_stride(stride, name):
    assert level_name(stride) == name


def test_png_without_objects_and_without_a_mixture_and_pyplot_is_left_alone(tmp_path):
    backend, pyplot = matplotlib.rcParams._get("backend"), "matplotlib.pyplot" in sys.modules
    save_assignment(make_picture([1, 0, 0]), tmp_path / "new" / "one.png", objects=[])
    one = Image.open(tmp_path / "new" / "one.png")
    plain = Panel("alone", (candidates([1, 0, 0], mixture=None),))
    picture = make_picture([1, 0, 0])
    picture = AssignmentPicture("x", picture.image, picture.bboxes, ("cat",), (8, 16), "cost", (plain,))
    save_assignment(picture, tmp_path / "two.png")
    two = Image.open(tmp_path / "two.png")
    assert two.height > one.height + 300
    assert count(np.asarray(two), COLOURS[3]) == 0  # no density
    assert matplotlib.rcParams._get("backend") == backend
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
