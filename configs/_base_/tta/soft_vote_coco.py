# tools/test.py --tta: three scales with flips, merged by the soft vote of the PAA authors' multi-scale test.
_base_ = "mmdet::retinanet/retinanet_tta.py"
tta_model = dict(type="SoftVoteTTAModel", tta_cfg=dict(nms=dict(iou_threshold=0.66), score_thr=0.05))
