# FGD: objects, background, attention and relations of the teacher's maps.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="FeatureDistillation", loss=dict(type="FGDLoss"))])
