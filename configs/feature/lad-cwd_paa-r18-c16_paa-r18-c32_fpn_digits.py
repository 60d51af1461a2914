# LAD and CWD together: the teacher's positives and the places where its channels are active.
_base_ = "../lad/lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
model = dict(
    methods=[
        dict(type="LabelAssignmentDistillation"),
        dict(type="FeatureDistillation", loss=dict(type="CWDLoss", loss_weight=5.0)),
    ]
)
