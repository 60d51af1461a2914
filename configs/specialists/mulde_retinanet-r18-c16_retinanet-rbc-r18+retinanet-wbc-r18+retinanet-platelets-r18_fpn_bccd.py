# Three specialists of one class each teach a student of all three.
_base_ = "../feature/retinanet_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
    teachers=dict(
        rbc=dict(
            config="{{ fileDirname }}/retinanet-rbc_r18_fpn_bccd.py",
            checkpoint="work_dirs/retinanet-rbc_r18_fpn_bccd/epoch_12.pth",
        ),
        wbc=dict(
            config="{{ fileDirname }}/retinanet-wbc_r18_fpn_bccd.py",
            checkpoint="work_dirs/retinanet-wbc_r18_fpn_bccd/epoch_12.pth",
        ),
        platelets=dict(
            config="{{ fileDirname }}/retinanet-platelets_r18_fpn_bccd.py",
            checkpoint="work_dirs/retinanet-platelets_r18_fpn_bccd/epoch_12.pth",
        ),
    ),
    methods=[
        dict(
            type="MulDE",
            classes=["RBC", "WBC", "Platelets"],
            knows=dict(rbc=["RBC"], wbc=["WBC"], platelets=["Platelets"]),
        )
    ],
)
