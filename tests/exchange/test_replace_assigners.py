"""Replacement of assigners: which image a call belongs to, their order and number."""

from types import SimpleNamespace

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.replay import replace_assigners

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn


class NearestAssigner:
    """Returns its arguments."""

    topk = 5

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None, alpha=1, **kwargs):
        return ("own", pred_instances, alpha, kwargs)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.assigner = NearestAssigner()


def objects(*counts):
    return [InstanceData(bboxes=torch.zeros(count, 4)) for count in counts]


def images_called(batch, order, **options):
    """The images of the calls, in their order."""
    head, called = Head(), []
    with replace_assigners(head, ["assigner"], batch, lambda call: called.append(call.image), **options):
        for gt_instances in order:
            head.assigner.assign(None, gt_instances, None)
    return called


def test_calls_belong_to_the_images_in_their_order_with_or_without_empty_ones():
    batch = objects(2, 0, 1, 0, 0, 3)
    assert images_called(batch, batch) == [0, 1, 2, 3, 4, 5]
    assert images_called(batch, [batch[0], batch[2], batch[5]]) == [0, 2, 5]


def test_copies_of_the_ground_truth_are_known_by_their_number_of_objects():
    assert images_called(objects(2, 0, 1), objects(2, 1)) == [0, 2]


def test_equal_numbers_of_objects_in_another_order_are_found_by_identity():
    batch = objects(2, 2)
    with pytest.raises(UnsupportedError, match=r"Head\.assigner was called out of order"):
        images_called(batch, batch[::-1])


def test_one_object_list_for_several_images_is_no_mistake():
    batch = objects(2) * 3
    assert images_called(batch, batch) == [0, 1, 2]


def test_another_number_of_objects_is_named():
    with pytest.raises(UnsupportedError, match="for 3 objects where image 0 of the batch, with 2, was next"):
        images_called(objects(2, 3), objects(3))


def test_more_calls_than_images_are_refused():
    batch = objects(1)
    with pytest.raises(UnsupportedError, match="once more than the 1 images"):
        images_called(batch, batch * 2)


def test_calls_for_some_images_only_are_refused():
    batch = objects(1, 0, 1)
    with pytest.raises(UnsupportedError, match="was called 1 times and not for image 2 of 3"):
        images_called(batch, batch[:1])
    with pytest.raises(UnsupportedError, match="was called 0 times"):
        images_called(batch, [])
    assert images_called(batch, [], expects_calls=lambda: False) == []
    assert images_called(objects(0, 0), []) == []


def test_call_names_arguments_as_the_assigner_does_and_repeats_them_with_changes():
    head, batch, calls = Head(), objects(1), []

    def answer(call):
        calls.append(call)
        return call.assign(pred_instances="the teacher's")

    with replace_assigners(head, ["assigner"], batch, answer):
        assert head.assigner.topk == 5  # everything else is the assigner's
        found = head.assigner.assign("the student's", batch[0], gt_instances_ignore=None, levels=[3])
    assert found == ("own", "the teacher's", 1, dict(levels=[3]))
    assert calls[0].pred_instances == "the student's"
    assert calls[0].gt_instances is batch[0]
    assert calls[0].site == "assigner"


def test_every_place_is_restored_after_an_exception_in_the_middle():
    head = SimpleNamespace(first=NearestAssigner(), second=NearestAssigner())
    before = dict(vars(head))

    def broken(call):
        raise ZeroDivisionError

    batch = objects(1)
    with pytest.raises(ZeroDivisionError), replace_assigners(head, ["first", "second"], batch, broken):
        head.second.assign(None, batch[0])
    assert vars(head) == before
    with pytest.raises(AttributeError), replace_assigners(head, ["first", "third"], batch, broken):
        pass
    assert vars(head) == before


def test_assigner_that_is_a_module_is_hidden_and_found_again():
    head = nn.Module()
    head.assigner = nn.Identity()
    with replaced(head, "assigner", 3):
        assert head.assigner == 3
    assert isinstance(head.assigner, nn.Identity)
