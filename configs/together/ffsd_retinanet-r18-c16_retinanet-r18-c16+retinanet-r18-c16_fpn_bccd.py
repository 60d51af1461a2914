# Li et al., TNNLS 2022 (FFSD), on blood cells: the fused features of two RetinaNets teach a third, from scratch.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        leader="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
        a="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
        b="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
    ),
    deploy="leader",
    methods=[dict(type="FeatureFusionSelfDistillation", leader="leader")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
