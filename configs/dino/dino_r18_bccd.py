# The blood cells' teacher: ResNet-18, trained from scratch in 24 epochs of 52 steps, on images of 192x144.
_base_ = [
    "../_base_/models/dino_r18_small.py",
    "../_base_/datasets/bccd_small_detection.py",
    "../_base_/schedules/schedule_bccd.py",
    "../_base_/small_runtime.py",
]
# A photograph shows up to 28 cells.
model = dict(num_queries=60)
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_epochs=24, val_interval=24)
optim_wrapper = dict(optimizer=dict(lr=0.0003), clip_grad=dict(max_norm=0.1))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=True, milestones=[18, 22], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=4)
