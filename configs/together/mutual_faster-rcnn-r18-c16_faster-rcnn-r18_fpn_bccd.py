# Two Faster R-CNNs of the blood cells learn each other's classes of their own proposals, from scratch.
_base_ = "../faster_rcnn/faster-rcnn_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    networks=dict(
        small="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18-c16_fpn_bccd.py",
        big="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18_fpn_bccd.py",
    ),
    deploy="small",
    methods=[dict(type="MutualLogitDistillation")],
)
custom_hooks = [dict(type="SaveNetworksHook")]
