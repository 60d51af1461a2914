# SimCLRv2, first command: backbone and neck of PAA-R18 from the 205 photographs of blood cells without their labels.
_base_ = ["../_base_/small_runtime.py"]
model = dict(
    type="SelfSupervisedPretraining",
    student="{{ fileDirname }}/../lad/paa_r18_fpn_bccd.py",
    methods=[dict(type="ContrastiveLearning", temperature=0.1)],
)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ViewsDataset",
        size=(96, 96),
        # A few cells of a photograph of 640 x 480 pixels.
        scale=(0.05, 0.2),
        dataset=dict(
            type="CocoDataset",
            labelled=False,
            data_root="data/bccd/",
            ann_file="annotations/train.json",
            data_prefix=dict(img="images/"),
        ),
    ),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=50)
# Of three rates the one whose loss was lowest after 8 epochs: 7.0; 7.3 at three times, 8.4 at ten times this rate.
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.0001, weight_decay=0.05))
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=True, T_max=50, convert_to_iter_based=True)]
randomness = dict(seed=0)
