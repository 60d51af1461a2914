# Online distillation (JITNet) of blood cells: a small student that has seen 20 photographs learns on a stream.
_base_ = "retinanet-few_r18-c16_fpn_bccd.py"
load_from = "work_dirs/retinanet-few_r18-c16_fpn_bccd/epoch_3.pth"
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9),
    # A frame is a batch of one image: without a bound its gradient may undo the student.
    clip_grad=dict(max_norm=1),
)
online = dict(
    teacher=dict(
        config="{{ fileDirname }}/../feature/retinanet_r18_fpn_bccd.py",
        checkpoint="work_dirs/retinanet_r18_fpn_bccd/epoch_12.pth",
    ),
)
