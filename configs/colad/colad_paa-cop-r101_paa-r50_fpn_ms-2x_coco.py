# CoLAD of the paper: a ResNet-101 with a COP head from ImageNet weights and a trained PAA-R50, multi-scale, 2x.
_base_ = ["mmdet::paa/paa_r50_fpn_ms-3x_coco.py", "../_base_/tta/soft_vote_coco.py"]
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        r101=dict(
            config="mmdet::paa/paa_r101_fpn_2x_coco.py",
            bbox_head=dict(
                type="PAACOPHead", loss_cls=dict(type="ProbabilityFocalLoss"), box_loss_weight="uniform"
            ),
        ),
        r50=dict(
            config="mmdet::paa/paa_r50_fpn_ms-3x_coco.py",
            backbone=dict(init_cfg=None),
            bbox_head=dict(type="BatchedPAAHead", box_loss_weight="uniform"),
            init_cfg=dict(
                type="Pretrained",
                checkpoint="https://download.openmmlab.com/mmdetection/v2.0/paa/paa_r50_fpn_mstrain_3x_coco/"
                "paa_r50_fpn_mstrain_3x_coco_20210121_145722-06a6880b.pth",
            ),
        ),
    ),
    deploy="r101",
    methods=[dict(type="CoLearningAssignment", switch=dict(type="StdMeanSwitch", per="gt_level"))],
)
max_epochs = 24
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=max_epochs, by_epoch=True, milestones=[16, 22], gamma=0.1),
]
custom_hooks = [dict(type="RoleSwitchHook"), dict(type="SaveNetworksHook")]
visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
