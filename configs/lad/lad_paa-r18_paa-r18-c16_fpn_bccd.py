# A smaller teacher: the bigger detector with the positives that the smaller one chooses.
_base_ = "paa_r18_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/paa_r18_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/paa_r18-c16_fpn_bccd.py",
        checkpoint="work_dirs/paa_r18-c16_fpn_bccd/epoch_12.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
