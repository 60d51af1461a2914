# Attention transfer: the student's maps are to be active where the teacher's are.
# A tenth of the paper's weight, which is for maps of 49 positions and more; coarse levels have fewer.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18-c32_fpn_digits.py"
model = dict(
    methods=[
        dict(
            type="FeatureDistillation",
            student=["neck[0]", "neck[1]", "neck[2]"],
            teacher=["neck[0]", "neck[1]", "neck[2]"],
            loss=dict(type="ATLoss", loss_weight=100.0),
        )
    ]
)
