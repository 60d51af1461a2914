# Its hints alone.
_base_ = "frcnn-all_mobilenetv2_r50_fpn_1x_coco.py"
model = dict(methods=[dict(type="HintDistillation")])
