# What the server begins with: RetinaNet trained on 20 labelled photographs of blood cells, at 192 x 144.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(192, 144), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(192, 144), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type="RepeatDataset",
        times=10,
        dataset=dict(
            type="CocoDataset",
            metainfo=dict(classes={{_base_.classes}}),
            data_root={{_base_.data_root}},
            ann_file="annotations/train.json",
            data_prefix=dict(img="images/"),
            filter_cfg=dict(filter_empty_gt=True),
            indices=20,
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=10, val_interval=10)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=True, milestones=[8], gamma=0.1),
]
# Its learning rate is for 8 images and was kept.
auto_scale_lr = dict(enable=False, base_batch_size=4)
