# Two RetinaNets of the demo's digits learn each other's class logits, from scratch.
_base_ = "../feature/retinanet_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        small="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
        big="{{ fileDirname }}/../feature/retinanet_r18-c32_fpn_digits.py",
    ),
    deploy="small",
    methods=[dict(type="MutualLogitDistillation")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
