# Channel-wise distillation: each channel is to be active where the teacher's is.
_base_ = "retinanet_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/retinanet_r18-c16_fpn_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/retinanet_r18-c32_fpn_digits.py",
        checkpoint="work_dirs/retinanet_r18-c32_fpn_digits/epoch_6.pth",
    ),
    methods=[dict(type="FeatureDistillation", loss=dict(type="CWDLoss", loss_weight=5.0))],
)
