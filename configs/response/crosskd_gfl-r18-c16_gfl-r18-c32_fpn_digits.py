# CrossKD on the demo's digits: the student's head's features finish the teacher's head.
_base_ = "kd_gfl-r18-c16_gfl-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="CrossHeadDistillation")])
