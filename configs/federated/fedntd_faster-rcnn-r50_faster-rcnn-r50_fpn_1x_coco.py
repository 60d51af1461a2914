# FedNTD (arXiv 2106.03097) on Faster R-CNN: a round of four clients is an epoch of COCO's schedule. Not run.
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    teachers=dict(round=dict(snapshot_of="student", at="start")),
    methods=[dict(type="NotTrueDistillation", taught_by="round")],
)
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500)]
federation = dict(
    rounds=24,
    # python tools/split_clients.py data/coco/annotations/instances_train2017.json --out data/coco/annotations/clients
    #     --dirichlet 0.5 --clients 4
    clients=dict(
        client_0=dict(ann_file="annotations/clients/client_0.json"),
        client_1=dict(ann_file="annotations/clients/client_1.json"),
        client_2=dict(ann_file="annotations/clients/client_2.json"),
        client_3=dict(ann_file="annotations/clients/client_3.json"),
    ),
)
