# A RetinaNet of ResNet-18 and one of ResNet-50 learn each other's class logits, from ImageNet weights.
_base_ = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        r18="mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
        r50="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    ),
    deploy="r18",
    methods=[dict(type="MutualLogitDistillation")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
