# The demo's detectors the other way round: the bigger with the positives that the smaller chooses.
_base_ = "paa_r18-c32_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/paa_r18-c32_fpn_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/paa_r18-c16_fpn_digits.py",
        checkpoint="work_dirs/paa_r18-c16_fpn_digits/epoch_6.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
