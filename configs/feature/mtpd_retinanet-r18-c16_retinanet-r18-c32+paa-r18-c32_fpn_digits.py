# A near teacher first, a far one from the middle of the training on (MTPD, arXiv 2308.09105), on the demo's digits.
_base_ = "retinanet_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/retinanet_r18-c16_fpn_digits.py",
    teachers=dict(
        near=dict(
            config="{{ fileDirname }}/retinanet_r18-c32_fpn_digits.py",
            checkpoint="work_dirs/retinanet_r18-c32_fpn_digits/epoch_6.pth",
        ),
        far=dict(
            config="{{ fileDirname }}/../lad/paa_r18-c32_fpn_digits.py",
            checkpoint="work_dirs/paa_r18-c32_fpn_digits/epoch_6.pth",
        ),
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            taught_by="near",
            active=dict(part=(0, 0.5)),
            loss=dict(type="PKDLoss", loss_weight=10.0),
        ),
        dict(
            type="FeatureDistillation",
            taught_by="far",
            active=dict(part=(0.5, 1)),
            loss=dict(type="PKDLoss", loss_weight=10.0),
        ),
    ],
)
