# From the teacher alone: no label is used.
_base_ = "frcnn-all_faster-rcnn-r18-c16_faster-rcnn-r18-c32_fpn_digits.py"
model = dict(student_loss=False)
