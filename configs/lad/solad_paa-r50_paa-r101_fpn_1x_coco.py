# SoLAD: LAD and soft labels together (arXiv 2108.10520).
_base_ = "lad_paa-r50_paa-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")])
