# Online distillation of blood cells (JITNet): a small student learns on a stream from a trained RetinaNet-R18.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
load_from = "work_dirs/retinanet-few_r18-c16_fpn_bccd/epoch_12.pth"
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9),
    clip_grad=dict(max_norm=1),  # a frame is one image: its gradient may be any
)
online = dict(
    teacher=dict(
        config="{{ fileDirname }}/retinanet-robust_r18_fpn_bccd.py",
        checkpoint="work_dirs/retinanet-robust_r18_fpn_bccd/epoch_8.pth",
    ),
)
