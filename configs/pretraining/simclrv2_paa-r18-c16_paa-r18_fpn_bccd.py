# SimCLRv2, third command: the smaller detector from the bigger one's detections in all 205 photographs, without labels.
_base_ = "../lad/paa_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../lad/paa_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/paa-pretrained_r18_fpn_bccd.py",
        checkpoint="work_dirs/paa-pretrained_r18_fpn_bccd/epoch_12.pth",
    ),
    student_loss=False,
    methods=[dict(type="SoftLabelDistillation", weights="teacher", cls_weight=10.0)],
)
train_dataloader = dict(dataset=dict(labelled=False))
