# Two equal RetinaNets of the blood cells learn each other's class logits, from scratch.
_base_ = "mutual_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(
    networks=dict(
        _delete_=True,
        a="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
        b="{{ fileDirname }}/../feature/retinanet_r18-c16_fpn_bccd.py",
    ),
    deploy="a",
)
