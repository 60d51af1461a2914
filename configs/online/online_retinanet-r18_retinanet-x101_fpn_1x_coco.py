# Online distillation (JITNet) of a RetinaNet-R18 from a RetinaNet-X101, both with MMDetection's checkpoints for COCO.
_base_ = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r18_fpn_1x_coco/"
    "retinanet_r18_fpn_1x_coco_20220407_171055-614fd399.pth"
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9),
    clip_grad=dict(max_norm=1),
)
online = dict(
    teacher=dict(
        config="mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/"
        "retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth",
    ),
)
