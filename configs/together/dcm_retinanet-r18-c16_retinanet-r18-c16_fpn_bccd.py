# Two equal RetinaNets of the blood cells with two exits each: every predictor learns from the other network's three.
_base_ = "mutual_retinanet-r18-c16_retinanet-r18-c16_fpn_bccd.py"
model = dict(
    exits=dict(
        a=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
        b=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
    ),
    methods=[dict(type="MutualLogitDistillation", pairs="all")],
)
