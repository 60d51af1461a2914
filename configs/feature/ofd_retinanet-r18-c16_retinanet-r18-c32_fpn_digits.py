# Overhaul: the student's responses before the ReLU are to be the teacher's, where they are active.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="OverhaulDistillation")])
