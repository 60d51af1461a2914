# A teacher for videos of blood cells: the trained RetinaNet-R18, trained on with other brightness, colours and sizes.
_base_ = "../feature/retinanet_r18_fpn_bccd.py"
load_from = "work_dirs/retinanet_r18_fpn_bccd/epoch_12.pth"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=(320, 240), ratio_range=(1.0, 1.8), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(240, 320)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=8, val_interval=8)
optim_wrapper = dict(optimizer=dict(lr=0.0005))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=True, milestones=[6, 7], gamma=0.1),
]
