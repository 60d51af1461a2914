# SoLAD: LAD and soft labels together (arXiv 2108.10520).
_base_ = "lad_r50-paa-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")])
