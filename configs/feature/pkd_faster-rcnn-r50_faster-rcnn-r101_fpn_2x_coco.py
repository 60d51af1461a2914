# PKD (arXiv 2207.02039) on two-stage detectors.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py",
    teacher=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/"
        "faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth",
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            student=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            teacher=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            loss=dict(type="PKDLoss", loss_weight=6.0),
        )
    ],
)
