# Li et al., TNNLS 2022 (FFSD), on the demo's digits: the fused features of two RetinaNets teach a third, from scratch.
_base_ = "../feature/retinanet_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        leader="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
        a="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
        b="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
    ),
    deploy="leader",
    methods=[dict(type="FeatureFusionSelfDistillation", leader="leader")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
