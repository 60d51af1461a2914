# Li et al., TNNLS 2022 (FFSD): the fused features of two RetinaNets of ResNet-18 teach a third, from ImageNet weights.
_base_ = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        leader="mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
        a="mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
        b="mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
    ),
    deploy="leader",
    methods=[dict(type="FeatureFusionSelfDistillation", leader="leader")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
