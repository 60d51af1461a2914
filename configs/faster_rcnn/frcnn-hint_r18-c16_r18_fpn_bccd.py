# Its hints alone.
_base_ = "frcnn-all_r18-c16_r18_fpn_bccd.py"
model = dict(methods=[dict(type="HintDistillation")])
