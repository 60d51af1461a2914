# CrossKD on blood cells: the student's head's features finish the teacher's head.
_base_ = "ld_r18-c16-gfl-r18_fpn_bccd.py"
model = dict(methods=[dict(type="CrossHeadDistillation")])
