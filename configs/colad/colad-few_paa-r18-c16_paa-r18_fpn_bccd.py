# The two detectors of the blood cells learn together from 20 photographs, from scratch.
_base_ = "../lad/paa-few_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        small="{{ fileDirname }}/../lad/paa-few_r18-c16_fpn_bccd.py",
        big="{{ fileDirname }}/../lad/paa-few_r18_fpn_bccd.py",
    ),
    deploy="small",
    methods=[dict(type="CoLearningAssignment", switch=dict(type="StdMeanSwitch", per="gt_level"))],
)
custom_hooks = [dict(type="RoleSwitchHook", interval=20), dict(type="SaveNetworksHook")]
