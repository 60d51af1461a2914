# Its hints alone.
_base_ = "frcnn-all_r18_r50_fpn_1x_coco.py"
model = dict(methods=[dict(type="HintDistillation")])
