# The smaller detector from the bigger one's detections in images that were synthesised from it; no photograph is seen.
# The images: see docs/data_free.md.
_base_ = "../lad/paa_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../lad/paa_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/../lad/paa_r18_fpn_bccd.py",
        checkpoint="work_dirs/paa_r18_fpn_bccd/epoch_12.pth",
    ),
    student_loss=False,
    methods=[dict(type="SoftLabelDistillation", weights="teacher", cls_weight=10.0)],
)
train_dataloader = dict(
    dataset=dict(
        labelled=False,
        data_root="data/bccd_synthesised/",
        ann_file="annotations.json",
        data_prefix=dict(img="images/"),
    )
)
