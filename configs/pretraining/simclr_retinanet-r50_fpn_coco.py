# Backbone and neck of RetinaNet-R50 from COCO's 123,403 unlabelled images, with random initial weights.
_base_ = "mmdet::_base_/default_runtime.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
# Nothing is frozen: random weights have nothing to keep.
trained = dict(frozen_stages=-1, norm_eval=False, init_cfg=None)
model = dict(
    type="SelfSupervisedPretraining",
    student=dict(config="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", backbone=trained),
    methods=[dict(type="ContrastiveLearning", temperature=0.1)],
)
# Batch norm over all processes: otherwise its statistics tell which images share a process.
sync_bn = "torch"
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ViewsDataset",
        size=(224, 224),
        dataset=dict(
            type="CocoDataset",
            labelled=False,
            data_root="data/coco/",
            ann_file="annotations/image_info_unlabeled2017.json",
            data_prefix=dict(img="unlabeled2017/"),
        ),
    ),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=100)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.001, weight_decay=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=5, end=100, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=256)
