# Two RetinaNets of the demo's digits with two exits each: every predictor learns from the other network's three.
_base_ = "../feature/retinanet_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        small="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
        big="{{ fileDirname }}/../feature/retinanet_r18-c32_fpn_digits.py",
    ),
    deploy="small",
    exits=dict(
        small=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
        big=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
    ),
    methods=[dict(type="MutualLogitDistillation", pairs="all")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
