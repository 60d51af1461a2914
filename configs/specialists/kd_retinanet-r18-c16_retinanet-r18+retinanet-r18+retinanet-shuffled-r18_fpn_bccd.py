# The mean of two good teachers and one that was trained on shuffled labels, for comparison with MulDE.
_base_ = "mulde_retinanet-r18-c16_retinanet-r18+retinanet-r18+retinanet-shuffled-r18_fpn_bccd.py"
model = dict(
    methods=[
        dict(
            type="DenseLogitDistillation",
            taught_by=["good", "second", "shuffled"],
            ensemble="average",
            loss=dict(type="KDLoss"),
        )
    ],
)
