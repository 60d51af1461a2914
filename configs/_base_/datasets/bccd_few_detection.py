# Blood cells with 20 of the 205 training photographs labelled, each 10 times an epoch: as many steps as with all.
_base_ = "bccd_detection.py"
train_dataloader = dict(
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
            # The first; a list of numbers chooses others.
            indices=20,
            pipeline={{_base_.train_pipeline}},
        ),
    )
)
