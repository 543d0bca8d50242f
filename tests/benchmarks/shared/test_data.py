"""Tests of the benchmarks' data sets; none of them reaches the network."""

import hashlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.shared.data import files, tables

SHARED_DATA = Path(__file__).parents[4] / "shared" / "data"
REAL_DATA = Path(os.environ.get(files.DATA_DIR_VARIABLE) or SHARED_DATA)
CAR = b"vhigh,med,2,4,big,low,unacc\nlow,low,5more,more,med,high,vgood\n" * 5


@pytest.fixture
def data_dir():
    """The folder with the real files."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no data files: {files.DATA_DIR_VARIABLE} or {SHARED_DATA}")
    return REAL_DATA


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No variable or cache of the user's counts, and only this host is reached."""
    resolve = socket.getaddrinfo

    def resolve_this_host(host, *args, **kwargs):
        if host != "127.0.0.1":
            raise OSError(f"the tests are offline, {host} is refused")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_this_host)
    monkeypatch.setattr(pooch, "os_cache", tmp_path.joinpath)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(files.DATA_DIR_VARIABLE, raising=False)


@pytest.fixture
def serve(monkeypatch):
    """Publish CAR, with `CAR` as its contents, on a server that sends `body`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CAR)))
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, *args):
            pass

    def start(body):
        server.body = body
        url = f"http://127.0.0.1:{server.server_port}/car.data"
        sha256 = hashlib.sha256(CAR).hexdigest()
        file = files.RemoteFile("car.data", url, len(CAR), sha256)
        monkeypatch.setitem(tables.FILES, "car", (file,))

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield start
        server.shutdown()
        thread.join()


def constant_prediction(dataset):
    """The test scores, in per cent, of predicting the training part's majority."""
    majority = np.bincount(dataset.y_train).argmax()
    predicted = np.full_like(dataset.y_test, majority)
    accuracy = accuracy_score(dataset.y_test, predicted)
    f1 = f1_score(dataset.y_test, predicted, average="macro")
    return round(100 * accuracy, 2), round(100 * f1, 2)


@pytest.mark.parametrize(
    ("name", "n_train", "n_test", "n_attributes", "n_classes"),
    [
        ("iris", 120, 30, 4, 3),
        ("wine", 142, 36, 13, 3),
        ("car", 1382, 346, 6, 4),
        ("agaricus", 6499, 1625, 116, 2),
    ],
)
def test_sizes_are_the_papers(name, n_train, n_test, n_attributes, n_classes, data_dir):
    dataset = tables.load(name, data_dir)
    assert dataset.name == name
    assert dataset.x_train.shape == (n_train, n_attributes)
    assert dataset.x_test.shape == (n_test, n_attributes)
    assert dataset.y_train.shape == (n_train,)
    assert dataset.y_test.shape == (n_test,)
    assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
    assert dataset.y_train.dtype == dataset.y_test.dtype == np.int32
    assert set(dataset.y_train) == set(range(n_classes))
    assert dataset.n_classes == n_classes


def test_constant_predictors_score_what_the_papers_sgd_does(data_dir):
    assert constant_prediction(tables.load("car", data_dir)) == (69.36, 20.48)
    assert constant_prediction(tables.load("agaricus", data_dir))[0] == 52.43
    assert constant_prediction(tables.load("iris"))[0] == 20.00


def test_car_codes_values_in_their_natural_order(serve, tmp_path):
    serve(CAR)
    dataset = tables.load("car", tmp_path)
    rows = np.c_[dataset.x_train, dataset.y_train]
    expected = [[0, 0, 3, 2, 1, 2, 3], [3, 1, 0, 1, 2, 0, 0]]
    np.testing.assert_array_equal(np.unique(rows, axis=0), expected)


def test_car_has_every_combination_of_values_once(data_dir):
    dataset = tables.load("car", data_dir)
    x = np.concatenate([dataset.x_train, dataset.x_test])
    expected = np.stack(np.meshgrid(*map(range, (4, 4, 4, 3, 3, 3)), indexing="ij"))
    np.testing.assert_array_equal(np.unique(x, axis=0), expected.reshape(6, -1).T)


def test_agaricus_is_one_hot_but_for_unknown_values(data_dir):
    dataset = tables.load("agaricus", data_dir)
    x = np.concatenate([dataset.x_train, dataset.x_test])
    n_unknown = (data_dir / "agaricus-lepiota.data").read_text().count("?")
    assert set(np.unique(x)) == {0, 1}
    assert x.any(axis=0).all()
    values, counts = np.unique(x.sum(axis=1), return_counts=True)
    np.testing.assert_array_equal(values, [21, 22])
    np.testing.assert_array_equal(counts, [n_unknown, len(x) - n_unknown])


def test_standardize_uses_the_training_part_alone():
    raw, scaled = tables.load("wine"), tables.load("wine", standardize=True)
    mean, std = raw.x_train.mean(axis=0), raw.x_train.std(axis=0)
    for part in ("x_train", "x_test"):
        expected = (getattr(raw, part) - mean) / std
        assert getattr(scaled, part).dtype == np.float32
        np.testing.assert_allclose(getattr(scaled, part), expected, atol=1e-4)
    np.testing.assert_array_equal(scaled.y_test, raw.y_test)


def test_environment_variable_names_the_folder(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv(files.DATA_DIR_VARIABLE, str(data_dir))
    assert tables.load("car").n_classes == 4
    assert files.data_folder(tmp_path) == tmp_path


def test_default_folder_is_made_on_demand(serve, tmp_path):
    serve(CAR)
    assert tables.load("car").n_classes == 4
    assert (tmp_path / "dsa_optax" / "car.data").read_bytes() == CAR


def test_download_leaves_the_file_alone_in_the_folder(serve, tmp_path):
    serve(CAR)
    tables.load("car", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["car.data"]
    serve(b"")
    assert tables.load("car", tmp_path).n_classes == 4


BAD_BODIES = {"truncated": CAR[:50], "altered": CAR.replace(b"big", b"med")}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_download_leaves_nothing(body, serve, tmp_path):
    serve(body)
    with pytest.raises(files.DataError, match="downloading it failed") as raised:
        tables.load("car", tmp_path)
    assert isinstance(raised.value.__cause__, (OSError, ValueError))
    assert not list(tmp_path.iterdir())


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(self, url, output_file, pooch):
        Path(output_file).write_bytes(CAR[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tables.load("car", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["car", "agaricus"])
def test_missing_file_offline(name, tmp_path):
    [file] = tables.FILES[name]
    with pytest.raises(files.DataError, match="is missing") as raised:
        tables.load(name, tmp_path)
    for part in (tmp_path / file.name, file.url, file.sha256, file.size, "--data-dir"):
        assert str(part) in str(raised.value)
    assert isinstance(raised.value.__cause__, OSError)
    assert not list(tmp_path.iterdir())


def test_damaged_file_is_reported_and_kept(serve, tmp_path):
    serve(CAR)
    path = tmp_path / "car.data"
    path.write_bytes(CAR[:50])
    with pytest.raises(files.DataError, match="is damaged: it has 50 bytes") as raised:
        tables.load("car", tmp_path)
    [file] = tables.FILES["car"]
    found = hashlib.sha256(CAR[:50]).hexdigest()
    for part in (path, file.url, file.sha256, file.size, found, "DSA_OPTAX_DATA"):
        assert str(part) in str(raised.value)
    assert path.read_bytes() == CAR[:50]


def test_file_that_cannot_be_read(tmp_path):
    (tmp_path / "car.data").mkdir()
    with pytest.raises(files.DataError, match="can't be read"):
        tables.load("car", tmp_path)


def test_missing_folder(tmp_path, monkeypatch):
    missing = tmp_path / "missing"
    with pytest.raises(files.DataError, match=r"missing \(--data-dir\) is no folder"):
        tables.load("car", missing)
    monkeypatch.setenv(files.DATA_DIR_VARIABLE, str(missing))
    with pytest.raises(files.DataError, match=r"missing \(DSA_OPTAX_DATA\) is no"):
        tables.load("car")
    assert not missing.exists()


def test_unknown_name():
    with pytest.raises(ValueError, match="'mnits'; known: iris, wine, car, agaricus"):
        tables.load("mnits")
