# LAD on YOLOX: YOLOX-l teaches YOLOX-s.
_base_ = "mmdet::yolox/yolox_s_8xb8-300e_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::yolox/yolox_s_8xb8-300e_coco.py",
    teacher=dict(
        config="mmdet::yolox/yolox_l_8xb8-300e_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_l_8x8_300e_coco/"
        "yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
