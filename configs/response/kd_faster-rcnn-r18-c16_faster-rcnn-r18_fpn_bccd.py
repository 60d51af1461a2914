# Plain distillation of the classes of the student's proposals, on blood cells.
_base_ = "../faster_rcnn/faster-rcnn_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18_fpn_bccd.py",
        checkpoint="work_dirs/faster-rcnn_r18_fpn_bccd/epoch_12.pth",
        speed=dict(channels_last=True),
    ),
    methods=[dict(type="RoILogitDistillation", loss=dict(type="KDLoss"))],
)
