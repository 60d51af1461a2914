"""What today's PyTorch needs from the OpenMMLab packages."""

import functools
import http.server
import subprocess
import sys
import threading
from pathlib import Path

from lad import compat
from lad.compat.safe_loading import allowed_globals, load_safely, only_stand_ins
from lad.errors import CheckpointError

import mmengine.runner.checkpoint as checkpoint_module
import numpy as np
import pytest
import torch
from helpers import Malicious
from mmengine.config import Config, ConfigDict
from mmengine.fileio.handlers import YamlHandler
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import CheckpointLoader, load_checkpoint
from stacks import MMDET_LOADS_PYPLOT
from torch import nn


class ForgedArray:
    """An array of Python objects whose pointers are bytes of the file."""

    def __init__(self, code="O"):
        self.code = code

    def __reduce__(self):
        reconstruct = np.zeros(1).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), ForgedDtype(self.code), False, b"AAAAAAAA")


class ForgedDtype:
    """A dtype whose state does not say that it holds objects."""

    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return np.dtype, (self.code, False, True), (3, "|", None, None, None, -1, -1, 0)


class GetAttribute:
    """Reaches for a function through ``getattr``, which MMEngine's own checkpoints name."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, "__init__")


def engine_checkpoint():
    """What MMEngine's runner saves besides tensors: histories, numpy scalars and arrays, configs."""
    hub = MessageHub.get_instance("test_compat")
    hub.update_scalar("train/loss", 2.5)
    hub.update_scalar("train/loss", 1.5)
    hub.update_info("numbers", dict(array=np.arange(3.0), scalar=np.float64(4), flag=np.bool_(True)))
    return dict(
        state_dict=nn.Linear(2, 2).state_dict(),
        meta=dict(epoch=1, seed=np.int64(3)),
        message_hub=hub.state_dict(),
        param_schedulers=[ConfigDict(a=1)],
    )


def test_engine_checkpoints_load_with_their_histories_and_numpy_values(tmp_path):
    torch.save(engine_checkpoint(), tmp_path / "a.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), map_location="cpu")
    history = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, HistoryBuffer)
    assert history.statistics("mean") == 2.0
    info = loaded["message_hub"]["runtime_info"]["numbers"]
    np.testing.assert_array_equal(info["array"], [0, 1, 2])
    assert info["scalar"] == 4
    assert loaded["meta"]["seed"] == 3


def test_every_plain_numpy_kind_is_read():
    import io

    for kind in (
        "?",
        "i1",
        "i2",
        "i4",
        "i8",
        "u1",
        "u2",
        "u4",
        "u8",
        "f2",
        "f4",
        "f8",
        "c8",
        "c16",
        "U3",
        "S3",
    ):
        file = io.BytesIO()
        torch.save(dict(value=np.zeros(2, dtype=kind)), file)
        file.seek(0)
        assert load_safely(file)["value"].dtype == np.dtype(kind)


def test_both_names_of_numpys_core_are_read():
    names = allowed_globals()
    assert names["numpy.core.multiarray._reconstruct"] is names["numpy._core.multiarray._reconstruct"]


@pytest.mark.parametrize("how", ["load_from", "CheckpointLoader", "runner.load_checkpoint"])
def test_malicious_file_is_refused_in_one_line_and_runs_nothing(tmp_path, how):
    target = tmp_path / "written"
    torch.save(dict(state_dict={}, extra=Malicious(target)), tmp_path / "bad.pth")
    load = {
        "load_from": lambda: load_checkpoint(nn.Linear(2, 2), str(tmp_path / "bad.pth")),
        "CheckpointLoader": lambda: CheckpointLoader.load_checkpoint(str(tmp_path / "bad.pth")),
        "runner.load_checkpoint": lambda: checkpoint_module._load_checkpoint(str(tmp_path / "bad.pth")),
    }[how]
    with pytest.raises(CheckpointError, match=r"names posix\.system, which is not tensor data") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_getattr_reaches_nothing_but_the_statistics_of_a_history(tmp_path):
    torch.save(dict(extra=GetAttribute()), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="is not allowed"):
        load_safely(tmp_path / "bad.pth")


def test_array_of_forged_pointers_is_refused(tmp_path):
    torch.save(dict(extra=ForgedArray()), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="an array of 'O' is not allowed"):
        load_safely(tmp_path / "bad.pth")


def test_array_whose_bytes_do_not_fill_it_is_refused(tmp_path):
    torch.save(dict(extra=ForgedArray("f4")), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="does not fill its shape"):
        load_safely(tmp_path / "bad.pth")


def test_loaded_arrays_are_saved_again_as_numpys_own(tmp_path):
    torch.save(engine_checkpoint(), tmp_path / "a.pth")
    torch.save(load_safely(tmp_path / "a.pth"), tmp_path / "b.pth")
    assert b"PlainArray" not in (tmp_path / "b.pth").read_bytes()
    array = torch.load(tmp_path / "b.pth", weights_only=False)["message_hub"]["runtime_info"]["numbers"][
        "array"
    ]
    assert type(array) is np.ndarray
    np.testing.assert_array_equal(array, [0, 1, 2])


def test_one_cycle_schedule_is_read(tmp_path):
    from mmengine.optim.scheduler import OneCycleLR

    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    state = OneCycleLR(optimizer, eta_max=1.0, total_steps=10).state_dict()
    torch.save(dict(param_schedulers=[state]), tmp_path / "a.pth")
    loaded = load_safely(tmp_path / "a.pth")["param_schedulers"][0]
    assert loaded["anneal_func"](0.0, 1.0, 0.5) == pytest.approx(state["anneal_func"](0.0, 1.0, 0.5))


def test_device_errors_are_not_called_corruption(tmp_path):
    torch.save(dict(state_dict={"a": torch.zeros(1)}), tmp_path / "a.pth")
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        load_safely(tmp_path / "a.pth", map_location="cuda")
    assert not isinstance(caught.value, CheckpointError)


@pytest.mark.skipif(
    not hasattr(torch.serialization, "get_safe_globals"), reason="torch is too old to have them"
)
def test_what_other_packages_allow_under_the_same_names_is_not_used(tmp_path):
    """OneDL's MMEngine allows ``getattr`` itself while it loads."""
    torch.save(dict(state_dict={}, b=GetAttribute()), tmp_path / "a.pth")
    torch.save(engine_checkpoint(), tmp_path / "b.pth")
    with torch.serialization.safe_globals(
        [getattr, np.ndarray, np.dtype, type(np.dtype(np.float64)), nn.Linear]
    ):
        before = set(torch.serialization.get_safe_globals())
        # The order of a set of objects differs from process to process, and decides where names are doubled.
        with only_stand_ins():
            allowed = torch.serialization.get_safe_globals()
            assert nn.Linear in allowed
            assert not {getattr, np.ndarray, np.dtype} & {
                one for one in allowed if not isinstance(one, tuple)
            }
        with pytest.raises(CheckpointError, match=r"getattr.* is not allowed"):
            load_safely(tmp_path / "a.pth")
        load_safely(tmp_path / "b.pth")
        assert set(torch.serialization.get_safe_globals()) == before


def test_engine_loads_by_no_other_function(tmp_path):
    """OneDL's MMEngine has one that runs the code in files that torch refuses."""
    torch.save(dict(state_dict={}, b=Malicious(tmp_path / "ran")), tmp_path / "a.pth")
    loaders = [
        CheckpointLoader.load_checkpoint,
        checkpoint_module.load_from_local,
        checkpoint_module._load_checkpoint,
    ]
    for load in loaders:
        with pytest.raises(CheckpointError, match="is refused"):
            load(str(tmp_path / "a.pth"), map_location="cpu")
    assert not (tmp_path / "ran").exists()
    if hasattr(checkpoint_module, "_safe_torch_load"):
        assert checkpoint_module._safe_torch_load is load_safely


def test_asking_for_unsafe_loading_does_not_help(tmp_path):
    target = tmp_path / "written"
    torch.save(dict(extra=Malicious(target)), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError):
        load_safely(tmp_path / "bad.pth", weights_only=False)
    assert not target.exists()


@pytest.fixture
def server(tmp_path):
    """Serves a folder on the loopback interface."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_downloads_are_loaded_safely_and_once(server, tmp_path, monkeypatch):
    folder, url = server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save(engine_checkpoint(), folder / "good.pth")
    target = tmp_path / "written"
    torch.save(dict(state_dict={}, extra=Malicious(target)), folder / "bad.pth")
    assert "state_dict" in CheckpointLoader.load_checkpoint(f"{url}/good.pth", map_location="cpu")
    (folder / "good.pth").unlink()
    assert "state_dict" in CheckpointLoader.load_checkpoint(f"{url}/good.pth", map_location="cpu")
    with pytest.raises(CheckpointError, match=r"names posix\.system"):
        CheckpointLoader.load_checkpoint(f"{url}/bad.pth")
    assert not target.exists()
    # Another run's checkpoint of the same name is another file.
    (folder / "other").mkdir()
    torch.save(dict(state_dict={}, meta=dict(run="other")), folder / "other/good.pth")
    assert CheckpointLoader.load_checkpoint(f"{url}/other/good.pth")["meta"]["run"] == "other"
    with pytest.raises(CheckpointError, match="cannot download"):
        CheckpointLoader.load_checkpoint(f"{url}/absent.pth")


def test_truncated_checkpoint_is_one_line(tmp_path):
    torch.save(engine_checkpoint(), tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated, corrupt or of another kind") as caught:
        load_safely(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_cpu_model_is_wrapped_for_ddp_without_device_ids(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = MMDistributedDataParallel(module=nn.Linear(2, 2), device_ids=[0])
        assert wrapped.device_ids is None
    finally:
        torch.distributed.destroy_process_group()


def test_patches_are_applied_once():
    before = (checkpoint_module.torch, MMDistributedDataParallel.__init__)
    compat.apply()
    assert (checkpoint_module.torch, MMDistributedDataParallel.__init__) == before


def test_configs_of_packages_are_found_without_reading_all_metafiles_again(monkeypatch, tmp_path):
    path, scope = Config._get_cfg_path("mmdet::atss/atss_r50_fpn_1x_coco.py", "")
    assert scope == "mmdet"
    assert Path(path).is_file()
    monkeypatch.setattr(YamlHandler, "load_from_fileobj", None)
    assert Config._get_cfg_path("mmdet::atss/atss_r50_fpn_1x_coco.py", "elsewhere/own.py") == (path, scope)
    own = tmp_path / "own.py"
    own.write_text('_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"\n')  # which has no metafile
    assert Config.fromfile(own).model.type == "RetinaNet"
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="retinanet_r5_fpn"):
            Config._get_cfg_path("mmdet::retinanet/retinanet_r5_fpn_1x_coco.py", "")
    assert Config._get_cfg_path("own.py", str(tmp_path / "a.py")) == (str(tmp_path / "own.py"), None)
    assert Config._get_cfg_path("own.py", str(tmp_path / "b" / "a.py")) == (
        str(tmp_path / "b" / "own.py"),
        None,
    )


def test_restricted_pickle_for_older_torch_reads_the_same_files_and_refuses_the_same(tmp_path):
    from lad.compat.safe_loading import restricted_pickle

    torch.save(engine_checkpoint(), tmp_path / "a.pth")
    loaded = torch.load(tmp_path / "a.pth", weights_only=False, pickle_module=restricted_pickle())
    assert loaded["message_hub"]["log_scalars"]["train/loss"].statistics("mean") == 2.0
    target = tmp_path / "written"
    torch.save(dict(extra=Malicious(target)), tmp_path / "bad.pth")
    with pytest.raises(Exception, match=r"Unsupported global: GLOBAL posix\.system"):
        torch.load(tmp_path / "bad.pth", weights_only=False, pickle_module=restricted_pickle())
    assert not target.exists()


DRAWING_CODE_IS_LOADED_LATE = """
import sys
import lad
import mmdet.utils
assert callable(mmdet.utils.imshow_mot_errors)
import mmdet.utils.mot_error_visualize as stand_in
assert stand_in.__dict__.get("__file__") is None
assert "matplotlib" not in sys.modules
try:
    mmdet.utils.imshow_mot_errors("image.jpg", [], [], [], backend="none")
except NotImplementedError:
    pass
else:
    raise AssertionError("the function of MMDetection refuses an unknown backend")
assert "matplotlib.pyplot" in sys.modules
import importlib
real = importlib.import_module("mmdet.utils.mot_error_visualize")
assert real is not stand_in
assert real.__file__.endswith("mot_error_visualize.py")
assert real.imshow_mot_errors.__module__ == "mmdet.utils.mot_error_visualize"
"""


@pytest.mark.skipif(MMDET_LOADS_PYPLOT, reason="this MMDetection imports pyplot itself")
def test_drawing_code_of_mmdetection_is_loaded_when_it_is_called():
    """In a new process: other tests load pictures."""
    done = subprocess.run(
        [sys.executable, "-c", DRAWING_CODE_IS_LOADED_LATE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
