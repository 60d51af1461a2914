# Faster R-CNNs of ResNet-18 and ResNet-50 learn each other's classes of their own proposals, from ImageNet weights.
_base_ = "../faster_rcnn/faster-rcnn_r18_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        r18="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18_fpn_1x_coco.py",
        r50="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    ),
    deploy="r18",
    methods=[dict(type="MutualLogitDistillation")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
