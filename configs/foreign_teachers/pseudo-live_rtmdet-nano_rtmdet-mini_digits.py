# The same from the detector itself, which looks at each batch.
_base_ = "../rtmdet/lad_rtmdet-nano_rtmdet-mini_digits.py"
model = dict(methods=[dict(type="DetectionDistillation")])
