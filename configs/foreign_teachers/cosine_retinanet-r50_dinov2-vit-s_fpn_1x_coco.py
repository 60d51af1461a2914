# DINOv2 ViT-S/14 with registers teaches C4 and P4 of a RetinaNet: cosine distance and a share of the gradient, after
# RT-DETRv4 (arXiv 2510.25257). Nobody has published an AP for this pair, and none was measured here.
# The weights (Apache-2.0): model.safetensors of timm/vit_small_patch14_reg4_dinov2.lvd142m on the hub.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    teacher=dict(
        type="FeatureTeacher",
        model=dict(type="timm", name="vit_small_patch14_reg4_dinov2.lvd142m"),
        checkpoint="checkpoints/vit_small_patch14_reg4_dinov2.lvd142m.safetensors",
        image_scale=0.875,  # patches of 14 pixels have a stride of 16
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            student=["backbone.layer3", "neck[1]"],
            teacher=["backbone[0]", "backbone[0]"],
            loss=dict(type="CosineLoss"),
            loss_weight=dict(type="gradient_share", share=0.1),
        )
    ],
)
