# The same on the digits cut out of their scenes: tools/dataset_converters/cut_objects.py, see docs/self_supervised.md.
_base_ = "simclr_retinanet-r18-c16_fpn_digits.py"
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        # A view shows the whole digit or most of it.
        scale=(0.5, 1.0),
        dataset=dict(
            _delete_=True,
            type="CocoDataset",
            labelled=False,
            data_prefix=dict(img="data/digits_crops/"),
        ),
    ),
)
