# Plain distillation of the classes of the student's proposals, on the demo's digits.
_base_ = "../faster_rcnn/faster-rcnn_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18-c16_fpn_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18-c32_fpn_digits.py",
        checkpoint="work_dirs/faster-rcnn_r18-c32_fpn_digits/epoch_6.pth",
    ),
    methods=[dict(type="RoILogitDistillation", loss=dict(type="KDLoss"))],
)
