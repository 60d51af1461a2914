# A Swin-B teacher to train before lad_paa-r50_paa-swin-b_fpn_1x_coco.py: no checkpoint of one is published. Data and
# length are MMDetection's multi-scale 3x, the optimizer that of its Swin detectors.
_base_ = "mmdet::paa/paa_r50_fpn_ms-3x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type="SwinTransformer",
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=7,
        drop_path_rate=0.3,
        out_indices=(1, 2, 3),
        convert_weights=True,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
            "swin_base_patch4_window7_224.pth",
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024], start_level=0),
    bbox_head=dict(type="BatchedPAAHead"),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "absolute_pos_embed": dict(decay_mult=0.0),
            "relative_position_bias_table": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
    optimizer=dict(_delete_=True, type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
)
