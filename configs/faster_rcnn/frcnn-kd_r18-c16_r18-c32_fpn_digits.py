# From the teacher alone: no label is used.
_base_ = "frcnn-all_r18-c16_r18-c32_fpn_digits.py"
model = dict(student_loss=False)
