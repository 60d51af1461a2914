# Two networks pretrained together without labels on views of the demo's digits; the small one is deployed.
_base_ = "simclr_retinanet-r18-c16_fpn_digits.py"
custom_hooks = [
    dict(type="SaveNetworksHook"),
    dict(
        type="KNNAccuracyHook",
        dataset=dict(
            type="DigitsDataset",
            data_root="data/digits/",
            ann_file="annotations/val.json",
            data_prefix=dict(img="images/val/"),
        ),
    ),
]
model = dict(
    _delete_=True,
    type="SelfSupervisedPretraining",
    networks=dict(
        small="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
        big="{{ fileDirname }}/../feature/retinanet_r18-c32_fpn_digits.py",
    ),
    deploy="small",
    methods=[dict(type="ContrastiveLearning", temperature=0.5), dict(type="SimilarityDistillation")],
)
