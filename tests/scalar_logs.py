"""Scalars as MMEngine logs them, for tests of what reads them."""

import json


def write(work_dir, timestamp, *lines):
    folder = work_dir / timestamp / "vis_data"
    folder.mkdir(parents=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "scalars.json").write_text(text + "\n")
    return work_dir


def step(iteration, loss, per_epoch=100, **more):
    epoch = -(-iteration // per_epoch)
    return dict(loss=loss, loss_cls=loss / 2, lr=0.1, epoch=epoch, iter=iteration, step=iteration, **more)


def resumed_run(work_dir):
    """Two epochs; preempted in the second, resumed from the end of the first; tested after."""
    write(work_dir, "20260102_000000", step(120, 70.0), step(160, 60.0), {"coco/bbox_mAP": 0.4, "step": 2})
    first = [step(40, 10.0), step(80, 9.0), {"coco/bbox_mAP": 0.2, "step": 1}, step(120, 8.0), step(180, 7.0)]
    write(work_dir, "20260101_000000", *first, '{"loss": 6.0, "it')
    write(work_dir, "20260103_000000", {"coco/bbox_mAP": 0.9, "step": 0})
    return work_dir
