# The digits' student alone.
_base_ = "rtmdet_mini_digits.py"
model = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128]),
)
