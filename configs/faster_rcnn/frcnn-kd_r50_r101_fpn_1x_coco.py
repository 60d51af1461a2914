# From the teacher alone: no label is used.
_base_ = "frcnn-all_r50_r101_fpn_1x_coco.py"
model = dict(student_loss=False)
