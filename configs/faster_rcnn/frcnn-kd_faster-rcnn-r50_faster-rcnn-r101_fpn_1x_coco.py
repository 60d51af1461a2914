# From the teacher alone: no label is used.
_base_ = "frcnn-all_faster-rcnn-r50_faster-rcnn-r101_fpn_1x_coco.py"
model = dict(student_loss=False)
