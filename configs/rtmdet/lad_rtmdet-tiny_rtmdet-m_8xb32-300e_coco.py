# LAD on RTMDet: RTMDet-m teaches RTMDet-tiny.
_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    teacher=dict(
        config="mmdet::rtmdet/rtmdet_m_8xb32-300e_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_m_8xb32-300e_coco/"
        "rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
