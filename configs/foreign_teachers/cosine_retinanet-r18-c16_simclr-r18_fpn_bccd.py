# A backbone and neck that were pretrained without labels teach the blood cells' student: the cosine distance of the
# neck's maps, and a share of the gradient. The base is the detector that was pretrained; data and schedule are the
# student's.
_base_ = "../lad/paa_r18_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
    teacher=dict(
        type="BackboneAndNeck",
        data_preprocessor={{_base_.model.data_preprocessor}},
        backbone={{_base_.model.backbone}},
        neck={{_base_.model.neck}},
        checkpoint="work_dirs/simclr_paa-r18_fpn_bccd/epoch_50.pth",
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            student="neck",
            teacher="neck",
            loss=dict(type="CosineLoss"),
            loss_weight=dict(type="gradient_share", share=0.1),
        )
    ],
)
