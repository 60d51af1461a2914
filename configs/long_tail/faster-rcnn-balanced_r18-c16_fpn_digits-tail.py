# Class-balanced sampling alone, for comparison with CBD.
_base_ = "faster-rcnn_r18-c16_fpn_digits-tail.py"
train_dataloader = dict(sampler=dict(_delete_=True, type="ClassAwareSampler"))
