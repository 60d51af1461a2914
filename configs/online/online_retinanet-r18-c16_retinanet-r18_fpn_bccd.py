# Online distillation of blood cells (JITNet): a small student learns on a stream from a trained RetinaNet-R18.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
load_from = "work_dirs/retinanet-few_r18-c16_fpn_bccd/epoch_12.pth"
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9),
    clip_grad=dict(max_norm=10),
)
online = dict(
    teacher=dict(
        config="configs/feature/retinanet_r18_fpn_bccd.py",
        checkpoint="work_dirs/retinanet_r18_fpn_bccd/epoch_12.pth",
    ),
)
