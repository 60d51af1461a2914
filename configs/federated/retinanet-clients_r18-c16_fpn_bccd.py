# FedAvg on blood cells: three clients that annotate a class each, from what the server has learnt on 20 photographs.
_base_ = "retinanet-server_r18-c16_fpn_bccd.py"
load_from = "work_dirs/retinanet-server_r18-c16_fpn_bccd/epoch_10.pth"
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="CocoDataset",
        metainfo=dict(classes={{_base_.classes}}),
        data_root={{_base_.data_root}},
        # Each client has its own.
        ann_file="annotations/train.json",
        data_prefix=dict(img="images/"),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline={{_base_.train_pipeline}},
    )
)
# Of a round.
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = []
optim_wrapper = dict(optimizer=dict(lr=0.0005))
federation = dict(
    rounds=8,
    # python tools/split_clients.py data/bccd/annotations/train.json --out data/bccd/annotations/clients --skip 20
    #     --classes RBC=RBC WBC=WBC Platelets=Platelets
    clients=dict(
        RBC=dict(ann_file="annotations/clients/RBC.json"),
        WBC=dict(ann_file="annotations/clients/WBC.json"),
        Platelets=dict(ann_file="annotations/clients/Platelets.json"),
    ),
)
