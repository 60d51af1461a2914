# PKD: the student's channels are to be correlated with the teacher's.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(
    methods=[
        dict(
            type="FeatureDistillation",
            student=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            teacher=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            loss=dict(type="PKDLoss", loss_weight=10.0),
        )
    ]
)
