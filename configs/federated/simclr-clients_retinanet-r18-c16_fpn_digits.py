# SimCLR where the images are: three clients pretrain backbone and neck of RetinaNet-R18-c16 on scenes of digits.
_base_ = "../pretraining/simclr_retinanet-r18-c16_fpn_digits.py"
train_dataloader = dict(batch_size=32, num_workers=0, persistent_workers=False)
# Of a round.
train_cfg = dict(max_epochs=2)
param_scheduler = []
federation = dict(
    rounds=10,
    # python tools/split_clients.py data/digits/annotations/train.json --out data/digits/annotations/clients
    #     --dirichlet 0.5 --clients 3
    clients=dict(
        client_0=dict(ann_file="annotations/clients/client_0.json"),
        client_1=dict(ann_file="annotations/clients/client_1.json"),
        client_2=dict(ann_file="annotations/clients/client_2.json"),
    ),
)
