# Soft labels alone (arXiv 2108.10520); the weight of the class term is that of the authors' configuration.
_base_ = "lad_paa-r101_paa-r50_fpn_1x_coco.py"
model = dict(student_loss=False, methods=[dict(type="SoftLabelDistillation", cls_weight=10.0)])
