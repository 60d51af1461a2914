# Two RetinaNets of the blood cells with two exits each: every predictor learns from the other network's three.
_base_ = "mutual_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(
    exits=dict(
        small=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
        big=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
    ),
    methods=[dict(type="MutualLogitDistillation", pairs="all")],
)
