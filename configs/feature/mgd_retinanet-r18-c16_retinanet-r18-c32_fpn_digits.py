# MGD: the teacher's maps are generated from a part of the student's.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="FeatureDistillation", loss=dict(type="MGDLoss"))])
