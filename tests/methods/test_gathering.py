"""Contrastive learning: negatives over all processes."""

import torch
import view_runs


def test_two_processes_have_loss_and_gradients_of_one_with_the_same_images(tmp_path):
    found = view_runs.run(view_runs.linear_step, tmp_path)
    assert abs(found[2]["loss"] - found[1]["loss"]) < 1e-6
    torch.testing.assert_close(found[2]["gradient"], found[1]["gradient"], rtol=1e-5, atol=1e-6)
    assert found[1]["gradient"].abs().max() > 1e-2
