# Two RetinaNets of the blood cells learn each other's class logits, from scratch.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        small="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
        big="{{ fileDirname }}/../feature/retinanet_r18_fpn_bccd.py",
    ),
    deploy="small",
    methods=[dict(type="MutualLogitDistillation")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
