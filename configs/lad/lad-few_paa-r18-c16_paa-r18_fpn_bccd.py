# A student of 20 photographs, with the positives that a bigger detector of all 205 chooses.
_base_ = "paa-few_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/paa-few_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/paa_r18_fpn_bccd.py",
        checkpoint="work_dirs/paa_r18_fpn_bccd/epoch_12.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
