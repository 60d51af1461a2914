# Its hints alone.
_base_ = "frcnn-all_faster-rcnn-r18-c16_faster-rcnn-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="HintDistillation")])
