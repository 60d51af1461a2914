# The plain mean of three specialists of one class each, for comparison with MulDE: without attention and without gates.
_base_ = "mulde_retinanet-r18-c16_retinanet-rbc-r18+retinanet-wbc-r18+retinanet-platelets-r18_fpn_bccd.py"
model = dict(
    methods=[
        dict(
            type="MulDE",
            classes=["RBC", "WBC", "Platelets"],
            knows=dict(rbc=["RBC"], wbc=["WBC"], platelets=["Platelets"]),
            attention="mean",
            gated=False,
        )
    ],
)
