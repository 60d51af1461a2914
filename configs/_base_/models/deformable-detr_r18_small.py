# Deformable DETR for small images: ResNet-18, two encoder and two decoder layers of 64 channels.
_base_ = "resnet18_fpn_small.py"
model = dict(
    type="DeformableDETR",
    num_queries=30,
    num_feature_levels=3,
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(
        _delete_=True,
        type="ChannelMapper",
        in_channels=[128, 256, 512],
        kernel_size=1,
        out_channels=64,
        act_cfg=None,
        norm_cfg=dict(type="GN", num_groups=8),
        num_outs=3,
    ),
    encoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=64, num_levels=3, batch_first=True),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=128),
        ),
    ),
    decoder=dict(
        num_layers=2,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=64, num_heads=8, batch_first=True),
            cross_attn_cfg=dict(embed_dims=64, num_levels=3, batch_first=True),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=128),
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=32, normalize=True, offset=-0.5),
    bbox_head=dict(
        type="DeformableDETRHead",
        num_classes=3,
        embed_dims=64,
        sync_cls_avg_factor=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="FocalLossCost", weight=2.0),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=100),
)
