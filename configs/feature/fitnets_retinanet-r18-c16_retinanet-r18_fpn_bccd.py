# FitNets: the student's maps, through a regressor, are to be the teacher's.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(
    methods=[
        dict(type="FeatureDistillation", loss=dict(type="HintLoss", loss_weight=0.5), connector="projection")
    ]
)
