# CrossKD on blood cells: the student's head's features finish the teacher's head.
_base_ = "kd_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(methods=[dict(type="CrossHeadDistillation")])
