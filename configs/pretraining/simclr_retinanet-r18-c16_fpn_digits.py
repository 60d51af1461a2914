# Backbone and neck of RetinaNet-R18-c16, pretrained on crops of the demo's digits without reading a label. One core.
_base_ = ["../_base_/small_runtime.py"]
model = dict(
    type="SelfSupervisedPretraining",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
    methods=[dict(type="ContrastiveLearning", temperature=0.1)],
)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ViewsDataset",
        size=(64, 64),
        scale=(0.1, 0.5),
        # A mirrored 3 is no 3.
        flip=0.0,
        dataset=dict(
            type="DigitsDataset",
            labelled=False,
            data_root="data/digits/",
            ann_file="annotations/train.json",
            data_prefix=dict(img="images/train/"),
            pipeline=[dict(type="LoadImageFromFile")],
        ),
    ),
)
# How well the features tell the digits of the validation images apart, in the log after each epoch.
custom_hooks = [
    dict(
        type="KNNAccuracyHook",
        dataset=dict(
            type="DigitsDataset",
            data_root="data/digits/",
            ann_file="annotations/val.json",
            data_prefix=dict(img="images/val/"),
        ),
    )
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=20)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.001, weight_decay=0.05))
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=True, T_max=20, convert_to_iter_based=True)]
randomness = dict(seed=0)
