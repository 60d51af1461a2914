# PAA-R50 from PAA-R101's detections in images that were synthesised from it: see docs/data_free.md.
_base_ = "mmdet::paa/paa_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::paa/paa_r50_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::paa/paa_r101_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/paa/paa_r101_fpn_1x_coco/"
        "paa_r101_fpn_1x_coco_20200821-0a1825a4.pth",
    ),
    student_loss=False,
    methods=[dict(type="SoftLabelDistillation", weights="teacher", cls_weight=10.0)],
)
train_dataloader = dict(
    dataset=dict(
        labelled=False,
        data_root="data/coco_synthesised/",
        ann_file="annotations.json",
        data_prefix=dict(img="images/"),
    )
)
