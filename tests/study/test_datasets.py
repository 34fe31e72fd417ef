"""The registry of public data sets, tried on files served from this machine; nothing here needs a network."""

import builtins
import dataclasses
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellgap.errors import DataError, DesignError, MissingExtraError
from cellgap.study import Design, datasets

pytest.importorskip("pooch")


class _Server:
    """Serves one body and counts how often it was asked for."""

    def __init__(self, body: bytes) -> None:
        self.body, self.asked = body, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                self.send_response(200 if self.path == "/file.h5ad" else 404)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/file.h5ad"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    obs = pd.DataFrame({"well": ["0", "0", "10", "10", "100", "100"]}, index=pd.Index(list("abcdef")))
    AnnData(np.ones((6, 2), np.float32), obs=obs).write_h5ad(tmp_path / "source.h5ad")
    served = _Server((tmp_path / "source.h5ad").read_bytes())
    yield served
    served.close()


@pytest.fixture
def registered(server, monkeypatch):
    """Return a function that puts an entry for the served file in the registry."""

    def register(**change):
        entry = dataclasses.replace(datasets.info("palbociclib_4i"), name="here", url=server.url, **change)
        monkeypatch.setitem(datasets._REGISTRY, "here", entry)
        return entry

    return register


def _sha(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def test_published_checksum_is_checked_once_downloaded(server, registered, tmp_path):
    registered(checksum=_sha(server.body))
    path = datasets.fetch("here", tmp_path / "cache")
    assert path.read_bytes() == server.body
    assert datasets.fetch("here", tmp_path / "cache") == path
    assert server.asked == 1


def test_published_md5_is_understood(server, registered, tmp_path):
    registered(checksum="md5:" + hashlib.md5(server.body, usedforsecurity=False).hexdigest())
    assert datasets.fetch("here", tmp_path / "cache").exists()


def test_wrong_checksum_is_refused_and_the_file_not_kept(server, registered, tmp_path):
    entry = registered(checksum=_sha(b"something else"))
    with pytest.raises(DataError, match="does not have the published checksum"):
        datasets.fetch("here", tmp_path / "cache")
    assert not (tmp_path / "cache" / entry.file).exists()


def test_file_damaged_in_the_cache_is_refused(server, registered, tmp_path):
    registered(checksum=_sha(server.body))
    path = datasets.fetch("here", tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"published checksum.*delete it"):
        datasets.fetch("here", tmp_path)


def test_first_download_without_checksum_is_recorded_and_told(server, registered, tmp_path, capsys):
    registered()
    path = datasets.fetch("here", tmp_path)
    told = capsys.readouterr().err
    assert hashlib.sha256(server.body).hexdigest() in told
    assert "nothing vouches for this first file" in told
    datasets.fetch("here", tmp_path)
    assert capsys.readouterr().err == ""
    path.write_bytes(b"another file")
    with pytest.raises(DataError, match="was recorded when it was first downloaded"):
        datasets.fetch("here", tmp_path)


def test_file_put_there_by_hand_needs_no_network(server, registered, tmp_path):
    entry = registered(checksum=_sha(server.body))
    (tmp_path / entry.file).write_bytes(server.body)
    datasets.fetch("here", tmp_path)
    assert server.asked == 0


def test_no_network_names_the_address_and_what_to_do(server, registered, tmp_path):
    entry = registered()
    server.close()
    with pytest.raises(DataError, match="by hand") as caught:
        datasets.fetch("here", tmp_path)
    assert entry.url in str(caught.value) and str(tmp_path / entry.file) in str(caught.value)


def test_file_that_is_gone_names_the_address(server, registered, tmp_path, monkeypatch):
    registered()
    gone = dataclasses.replace(datasets.info("here"), url=server.url + "x")
    monkeypatch.setitem(datasets._REGISTRY, "here", gone)
    with pytest.raises(DataError, match=r"file.h5adx cannot be downloaded \(HTTPError\)"):
        datasets.fetch("here", tmp_path)


def test_load_gives_a_study(registered, tmp_path, capsys):
    registered()
    study = datasets.load("here", tmp_path)
    assert [str(c) for c in study.conditions] == ["palbociclib@10nM", "palbociclib@100nM"]
    assert study.n_obs == 6 and not study.is_counts
    capsys.readouterr()


def test_load_of_another_file_than_expected(registered, tmp_path, capsys):
    registered(prepare=datasets._labeled_cells)
    with pytest.raises(DataError, match="not what the registry expects"):
        datasets.load("here", tmp_path)
    registered(prepare=None, design=Design(treatment="drug", control="none"))
    with pytest.raises(DesignError):
        datasets.load("here", tmp_path)
    capsys.readouterr()


def test_cells_without_labels_are_left_out_and_counted(capsys):
    obs = pd.DataFrame(
        {"perturbation": ["a", None, "control"], "dose_value": [1.0, 1.0, 0.0], "cell_line": ["x", "x", "x"]},
        index=pd.Index(list("abc")),
    )
    kept = datasets._labeled_cells(AnnData(np.ones((3, 1), np.float32), obs=obs))
    assert list(kept.obs_names) == ["a", "c"]
    assert "left out 1 of 3 cells" in capsys.readouterr().err


def test_every_entry_is_complete():
    assert datasets.names() == tuple(sorted(datasets.names()))
    for name in datasets.names():
        entry = datasets.info(name)
        assert entry.url.startswith("https://") and entry.licence and entry.citation
        assert entry.checksum is None or entry.checksum.split(":")[0] in ("md5", "sha256")
        assert name in str(entry) and entry.url in str(entry) and entry.licence in str(entry)
        if entry.checksum is None:
            assert "recorded on the first download" in str(entry)
            assert any(len(part) == 40 for part in entry.url.split("/")), "an entry without checksum pins a commit"


def test_unknown_name_offers_what_is_close():
    with pytest.raises(DataError, match="did you mean 'norman2019'"):
        datasets.fetch("norman2018")


def test_missing_pooch_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_pooch(name, *args, **kwargs):
        if name == "pooch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pooch)
    with pytest.raises(MissingExtraError, match=r"cellgap\[data\]"):
        datasets.fetch("norman2019")
