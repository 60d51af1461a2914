# Student on blood cells, alone: a quarter of the width of its teacher.
_base_ = "rtmdet_small_bccd.py"
model = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128]),
)
