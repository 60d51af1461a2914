# DINO for small images: ResNet-18, one encoder and two decoder layers. MMDetection's DINO has 256 channels, no fewer.
_base_ = "deformable-detr_r18_small.py"
model = dict(
    type="DINO",
    with_box_refine=True,
    as_two_stage=True,
    neck=dict(out_channels=256),
    encoder=dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, dropout=0.0),
            ffn_cfg=dict(embed_dims=256, ffn_drop=0.0),
        ),
    ),
    decoder=dict(
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, dropout=0.0),
            cross_attn_cfg=dict(embed_dims=256, dropout=0.0),
            ffn_cfg=dict(embed_dims=256, ffn_drop=0.0),
        ),
    ),
    positional_encoding=dict(num_feats=128, offset=0.0, temperature=20),
    bbox_head=dict(type="DINOHead", embed_dims=256, loss_cls=dict(loss_weight=1.0)),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=30),
    ),
)
