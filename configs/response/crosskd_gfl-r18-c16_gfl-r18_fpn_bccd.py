# CrossKD on blood cells: the student's head's features finish the teacher's head.
_base_ = "ld_gfl-r18-c16_gfl-r18_fpn_bccd.py"
model = dict(methods=[dict(type="CrossHeadDistillation")])
