# Its hints alone.
_base_ = "frcnn-all_r50_r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="HintDistillation")])
