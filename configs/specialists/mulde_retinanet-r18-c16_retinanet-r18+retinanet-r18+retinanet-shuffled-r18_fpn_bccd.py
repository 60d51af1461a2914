# Two good teachers, of the seeds 0 and 1, and one that was trained on shuffled labels.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
    teachers=dict(
        good=dict(
            config="{{ fileDirname }}/../feature/retinanet_r18_fpn_bccd.py",
            checkpoint="work_dirs/retinanet_r18_fpn_bccd/epoch_12.pth",
        ),
        second=dict(
            config="{{ fileDirname }}/../feature/retinanet_r18_fpn_bccd.py",
            checkpoint="work_dirs/retinanet_r18_fpn_bccd_seed1/epoch_12.pth",
        ),
        shuffled=dict(
            config="{{ fileDirname }}/retinanet-shuffled_r18_fpn_bccd.py",
            checkpoint="work_dirs/retinanet-shuffled_r18_fpn_bccd/epoch_12.pth",
        ),
    ),
    methods=[dict(type="MulDE")],
)
