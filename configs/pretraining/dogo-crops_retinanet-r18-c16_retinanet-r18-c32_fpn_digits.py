# Two networks pretrained together on the digits cut out of their scenes; the small one is deployed.
_base_ = "simclr-crops_retinanet-r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="SelfSupervisedPretraining",
    networks=dict(
        small="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
        big="{{ fileDirname }}/../feature/retinanet_r18-c32_fpn_digits.py",
    ),
    deploy="small",
    # At the authors' temperature of 0.5 nothing is learnt in 20 epochs; see docs/self_supervised.md.
    methods=[dict(type="ContrastiveLearning", temperature=0.1), dict(type="SimilarityDistillation")],
)
