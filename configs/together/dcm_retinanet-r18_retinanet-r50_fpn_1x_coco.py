# RetinaNets of ResNet-18 and ResNet-50 with two exits each: every predictor learns from the other network's three.
_base_ = "mutual_retinanet-r18_retinanet-r50_fpn_1x_coco.py"
model = dict(
    exits=dict(
        r18=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
        r50=dict(early=dict(levels=[1]), late=dict(levels=[1, 2])),
    ),
    methods=[dict(type="MutualLogitDistillation", pairs="all")],
)
