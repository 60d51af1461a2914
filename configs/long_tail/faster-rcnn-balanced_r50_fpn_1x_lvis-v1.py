# Class-balanced sampling alone on LVIS, for comparison with CBD.
_base_ = "faster-rcnn_r50_fpn_1x_lvis-v1.py"
train_dataloader = dict(sampler=dict(_delete_=True, type="ClassAwareSampler"))
