"""Checkpoints from the network: http(s) alone, held against the hash in their name, kept in one folder."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from lad.compat.safe_loading import load_url_safely
from lad.errors import CheckpointError

import pytest
import torch
from helpers import Malicious


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a server on the loopback interface, and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    httpd.server_close()


def serve(folder, content, name="model_20200821-{}.pth"):
    torch.save(content, folder / "x")
    digest = hashlib.sha256((folder / "x").read_bytes()).hexdigest()[:8]
    (folder / "x").rename(folder / name.format(digest))
    return name.format(digest)


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def load(url, folder, **options):
    return load_url_safely(url, model_dir=str(folder), progress=False, **options)


def test_file_is_what_its_name_says(server, tmp_path):
    url, folder = server
    name = serve(folder, dict(weight=torch.ones(2)))
    assert torch.equal(load(f"{url}/{name}", tmp_path / "cache")["weight"], torch.ones(2))
    assert files(tmp_path / "cache") == [name]


def test_other_file_under_that_name_is_refused_and_not_kept(server, tmp_path):
    url, folder = server
    serve(folder, dict(weight=torch.ones(2)), "model_20200821-936edec3.pth")
    with pytest.raises(CheckpointError, match="SHA-256 does not begin with 936edec3"):
        load(f"{url}/model_20200821-936edec3.pth", tmp_path / "cache")
    assert files(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["model-20200821.pth", "model.pth", "epoch-3.pth"])
def test_dates_and_numbers_are_no_hashes(server, tmp_path, name):
    url, folder = server
    serve(folder, dict(weight=torch.ones(2)), name)
    load(f"{url}/{name}", tmp_path / "cache")
    (kept,) = files(tmp_path / "cache")
    assert kept != name
    assert kept.endswith(f"_{name}")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/model.pth", "/etc/passwd"])
def test_other_protocols_are_refused(tmp_path, url):
    with pytest.raises(CheckpointError, match="only http and https are allowed"):
        load(url, tmp_path)


@pytest.mark.parametrize("name", ["../../out.pth", "..\\out.pth", "/tmp/out.pth"])
def test_names_do_not_lead_out_of_the_folder(server, tmp_path, name):
    url, folder = server
    served = serve(folder, dict(weight=torch.ones(2)))
    load(f"{url}/{served}", tmp_path / "deep/er/cache", file_name=name)
    assert files(tmp_path / "deep") == ["out.pth"]
    assert (tmp_path / "deep/er/cache/out.pth").is_file()


def test_downloaded_file_runs_no_code(server, tmp_path):
    url, folder = server
    name = serve(folder, dict(state_dict={}, extra=Malicious(tmp_path / "written")))
    with pytest.raises(CheckpointError, match="could run code"):
        load(f"{url}/{name}", tmp_path / "cache")
    assert not (tmp_path / "written").exists()
