# A student for blood cells that has seen 20 photographs for 75 steps: quarter-width ResNet-18, trained from scratch.
_base_ = [
    "../_base_/models/retinanet_r18_fpn_small.py",
    "../_base_/datasets/bccd_few_detection.py",
    "../_base_/schedules/schedule_bccd.py",
    "../_base_/small_runtime.py",
]
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
train_cfg = dict(max_epochs=3, val_interval=3)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=True, milestones=[2], gamma=0.1),
]
