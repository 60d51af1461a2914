# Two exits that learn from the labels alone, on blood cells: what self-distillation is compared with.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
    exits=dict(student=dict(early=dict(levels=[1]), late=dict(levels=[1, 2]))),
    keep_exits=True,
)
