# RetinaNets of ResNet-18 and ResNet-50 with two exits each: every predictor learns from the other network's three.
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
    exits=dict(
        r18=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
        r50=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
    ),
    methods=[dict(type="MutualLogitDistillation", pairs="all")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
