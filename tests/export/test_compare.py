"""Comparison of detections."""

from lad.export.compare import Detections, Difference, compare

import numpy as np


def made(*rows):
    rows = np.array(rows, float).reshape(-1, 6)
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5])


A, B, C = (0, 0, 10, 10, 0.9, 0), (5, 5, 20, 20, 0.8, 1), (0, 0, 9, 9, 0.3, 1)


def test_order_makes_no_difference_and_rounding_is_measured():
    moved = (0, 0, 10.0004, 10, 0.9002, 0)
    difference = compare(made(A, B, C), made(B, moved, C))
    assert (difference.count, difference.unmatched) == (3, 0)
    assert abs(difference.box - 0.0004) < 1e-9
    assert abs(difference.score - 0.0002) < 1e-9


def test_another_box_class_score_or_number_is_a_difference():
    for other in ((0, 0, 10.1, 10, 0.9, 0), (0, 0, 10, 10, 0.9, 1), (0, 0, 10, 10, 0.95, 0)):
        assert compare(made(A, C), made(other, C)).unmatched == 2
    assert compare(made(A, C), made(C)).unmatched == 1
    assert compare(made(C), made(A, C)).unmatched == 1
    assert compare(made(), made()).unmatched == 0
    assert compare(made(A), made(A, A)).unmatched == 1


def test_which_of_two_equal_ones_is_the_last_makes_no_difference():
    assert compare(made(A, C), made(A, (50, 50, 60, 60, 0.3004, 0))).unmatched == 0
    assert compare(made(A, C), made(A, (50, 50, 60, 60, 0.32, 0))).unmatched == 1


def test_best_are_those_of_the_highest_scores():
    assert made(C, A, B).best(2).scores.tolist() == [0.9, 0.8]


def test_detections_that_are_compared_twice_are_counted_once():
    assert Difference(3, 1, 0.5, 0.1).or_worse(Difference(3, 2, 0.2, 0.3)) == Difference(3, 2, 0.5, 0.3)
