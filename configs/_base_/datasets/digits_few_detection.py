# The demo's digits with 40 of the 800 training images labelled, each 20 times an epoch: as many steps as with all.
_base_ = "digits_detection.py"
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="RepeatDataset",
        times=20,
        dataset=dict(
            type="DigitsDataset",
            data_root={{_base_.data_root}},
            ann_file="annotations/train.json",
            data_prefix=dict(img="images/train/"),
            filter_cfg=dict(filter_empty_gt=True),
            # The first; a list of numbers chooses others.
            indices=40,
            pipeline={{_base_.train_pipeline}},
        ),
    )
)
