# Channel-wise distillation: each channel is to be active where the teacher's is.
_base_ = "retinanet_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/retinanet_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/retinanet_r18_fpn_bccd.py",
        checkpoint="work_dirs/retinanet_r18_fpn_bccd/epoch_12.pth",
        speed=dict(channels_last=True),
    ),
    methods=[dict(type="FeatureDistillation", loss=dict(type="CWDLoss", loss_weight=5.0))],
)
