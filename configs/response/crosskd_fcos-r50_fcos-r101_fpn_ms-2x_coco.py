# CrossKD, FCOS: a ResNet-101 teaches a ResNet-50.
_base_ = "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py",
    teacher=dict(
        config="mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/"
        "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth",
    ),
    methods=[
        dict(
            type="CrossHeadDistillation",
            depth=2,
            # The authors' weights, tuned for their divisor: the sum of the positives' centreness targets. Here it is
            # the number of positives, which is larger.
            loss_cls=dict(type="QualityKDLoss", loss_weight=0.4),
            loss_bbox=dict(type="IoULoss", loss_weight=0.75),
        )
    ],
)
