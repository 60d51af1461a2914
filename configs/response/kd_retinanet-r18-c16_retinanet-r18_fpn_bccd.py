# Plain distillation of the class logits at every anchor, on blood cells.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/../feature/retinanet_r18_fpn_bccd.py",
        checkpoint="work_dirs/retinanet_r18_fpn_bccd/epoch_12.pth",
        speed=dict(channels_last=True),
    ),
    methods=[dict(type="DenseLogitDistillation", loss=dict(type="KDLoss"))],
)
