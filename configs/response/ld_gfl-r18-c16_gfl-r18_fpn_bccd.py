# Localisation distillation on blood cells: the teacher's edge distributions.
_base_ = "gfl_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/gfl_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/gfl_r18_fpn_bccd.py",
        checkpoint="work_dirs/gfl_r18_fpn_bccd/epoch_12.pth",
        speed=dict(channels_last=True),
    ),
    methods=[dict(type="LocalisationDistillation")],
)
