# The digits' student with the positives that its teacher chooses.
_base_ = "yolox_nano_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/yolox_nano_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/yolox_mini_digits.py",
        checkpoint="work_dirs/yolox_mini_digits/epoch_6.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
