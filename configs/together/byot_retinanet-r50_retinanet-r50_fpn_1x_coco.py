# BYOT (arXiv 1905.08094), with MMRazor's weights: exits on C3 and on C3 and C4 learn from the deepest predictor.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    exits=dict(student=dict(early=dict(levels=[1]), late=dict(levels=[1, 2]))),
    keep_exits=True,
    methods=[dict(type="SelfDistillation")],
)
