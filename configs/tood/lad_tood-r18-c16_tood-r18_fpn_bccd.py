# The blood cells' student with the positives that its teacher chooses.
_base_ = "tood_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/tood_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/tood_r18_fpn_bccd.py",
        checkpoint="work_dirs/tood_r18_fpn_bccd/epoch_12.pth",
        speed=dict(channels_last=True),
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
