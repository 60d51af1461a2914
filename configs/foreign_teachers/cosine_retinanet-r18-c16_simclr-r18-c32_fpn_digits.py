# A backbone and neck that were pretrained without labels teach the digits' student: the cosine distance of the neck's
# maps, and a share of the gradient.
_base_ = "../feature/retinanet_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_digits.py",
    teacher=dict(
        type="BackboneAndNeck",
        # As in the detector that was pretrained.
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
        ),
        backbone=dict(
            type="ResNet",
            depth=18,
            base_channels=32,
            num_stages=4,
            out_indices=(0, 1, 2, 3),
            norm_cfg=dict(type="BN"),
            style="pytorch",
        ),
        neck=dict(
            type="FPN",
            in_channels=[32, 64, 128, 256],
            out_channels=64,
            start_level=1,
            add_extra_convs="on_output",
            num_outs=5,
        ),
        checkpoint="work_dirs/simclr_paa-r18-c32_fpn_digits/epoch_20.pth",
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
