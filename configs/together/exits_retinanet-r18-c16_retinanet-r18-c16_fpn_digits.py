# Two exits that learn from the labels alone, on the demo's digits: what self-distillation is compared with.
_base_ = "byot_retinanet-r18-c16_retinanet-r18-c16_fpn_digits.py"
model = dict(methods=[])
