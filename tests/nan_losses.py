"""Makes a loss of one rank NaN at one iteration, in trainings in processes of their own."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class NaNLossHook(Hook):
    """Multiplies ``loss_cls`` by NaN."""

    def __init__(self, rank, iteration):
        self.rank = rank
        self.iteration = iteration

    def before_train(self, runner):
        head = (runner.model.module if hasattr(runner.model, "module") else runner.model).bbox_head
        loss_by_feat = head.loss_by_feat

        def spoilt(*args, **kwargs):
            losses = loss_by_feat(*args, **kwargs)
            if runner.rank == self.rank and runner.iter == self.iteration:
                losses["loss_cls"] = losses["loss_cls"] * torch.nan
            return losses

        head.loss_by_feat = spoilt
