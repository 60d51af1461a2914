# The blood cells' student with the positives that its teacher chooses.
_base_ = "rtmdet_nano_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/rtmdet_nano_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/rtmdet_small_bccd.py",
        checkpoint="work_dirs/rtmdet_small_bccd/epoch_12.pth",
        speed=dict(channels_last=True),
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
