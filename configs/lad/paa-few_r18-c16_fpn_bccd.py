# The smaller detector on 20 labelled photographs, trained from scratch.
_base_ = "paa-few_r18_fpn_bccd.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
