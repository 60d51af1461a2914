# Zhang et al., ICCV 2019 (BYOT), on the demo's digits: two exits learn from the network's own deepest predictor.
_base_ = "../feature/retinanet_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
    exits=dict(student=dict(early=dict(levels=[1]), late=dict(levels=[1, 2]))),
    keep_exits=True,
    methods=[dict(type="SelfDistillation")],
)
