# The demo's student and its teacher's architecture learn together, from scratch.
_base_ = "../lad/paa_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        small="{{ fileDirname }}/../lad/paa_r18-c16_fpn_digits.py",
        big="{{ fileDirname }}/../lad/paa_r18-c32_fpn_digits.py",
    ),
    deploy="small",
    methods=[dict(type="CoLearningAssignment", switch=dict(type="StdMeanSwitch", per="gt_level"))],
)
custom_hooks = [dict(type="RoleSwitchHook", interval=20), dict(type="SaveNetworksHook")]
visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
