# CWD with MMRazor's pair and weight.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/"
        "faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth",
    ),
    methods=[dict(type="FeatureDistillation", loss=dict(type="CWDLoss", loss_weight=10.0))],
)
