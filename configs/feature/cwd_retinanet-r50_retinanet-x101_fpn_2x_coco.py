# CWD (arXiv 2011.13256), the paper's pair with its authors' weight on the four finest levels.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py",
    teacher=dict(
        config="mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/"
        "retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth",
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            student=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            teacher=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            loss=dict(type="CWDLoss", loss_weight=5.0),
        )
    ],
)
