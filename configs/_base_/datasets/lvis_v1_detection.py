# LVIS v1, boxes alone, every image once an epoch (MMDetection's own repeats images of rare classes). The images are
# those of COCO 2017: data/lvis_v1/train2017, val2017 and annotations/lvis_v1_{train,val}.json.
_base_ = "mmdet::_base_/datasets/lvis_v1_instance.py"
data_root = "data/lvis_v1/"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="LVISV1Dataset",
        data_root=data_root,
        ann_file="annotations/lvis_v1_train.json",
        data_prefix=dict(img=""),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    )
)
val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
