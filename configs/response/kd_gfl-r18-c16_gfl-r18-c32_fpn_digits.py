# Plain distillation of the class logits at every prior, on the demo's digits.
_base_ = "gfl_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/gfl_r18-c16_fpn_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/gfl_r18-c32_fpn_digits.py",
        checkpoint="work_dirs/gfl_r18-c32_fpn_digits/epoch_6.pth",
    ),
    methods=[dict(type="DenseLogitDistillation", loss=dict(type="KDLoss"))],
)
