# A YOLOX student with the positives that an RTMDet teacher chooses: both predict one box a cell of the same grid.
_base_ = "yolox_nano_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/yolox_nano_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/../rtmdet/rtmdet_mini_digits.py",
        checkpoint="work_dirs/rtmdet_mini_digits/epoch_6.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
