# Localisation distillation of the positives alone.
_base_ = "ld_gfl-r18_gfl-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="LocalisationDistillation", vlr_weight=0.0)])
