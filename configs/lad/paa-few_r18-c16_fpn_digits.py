# The demo's student on 40 labelled images, trained from scratch.
_base_ = "paa-few_r18-c32_fpn_digits.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
