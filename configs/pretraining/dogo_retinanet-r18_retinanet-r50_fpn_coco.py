# RetinaNets of ResNet-18 and ResNet-50 pretrained together without labels; the small one is deployed.
_base_ = "simclr_retinanet-r50_fpn_coco.py"
model = dict(
    _delete_=True,
    type="SelfSupervisedPretraining",
    networks=dict(
        r18=dict(config="mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", backbone={{_base_.trained}}),
        r50=dict(config="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", backbone={{_base_.trained}}),
    ),
    deploy="r18",
    methods=[dict(type="ContrastiveLearning", temperature=0.5), dict(type="SimilarityDistillation")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
