"""Tests of the image data sets; none of them reaches the network."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest
from scipy.io import savemat

from benchmarks.shared.data import files, images, text
from tests.benchmarks.shared.test_data import REAL_DATA

PARTS = ("x_train", "y_train", "x_test", "y_test")


def real(name, files):
    """The data set from the folder with the real files, if it has them all."""
    missing = [file for file in files if not (REAL_DATA / file).exists()]
    if missing:
        pytest.skip(f"no {missing[0]} in {REAL_DATA}")
    return images.load(name, REAL_DATA)


@pytest.fixture(scope="module")
def mnist():
    return real("mnist", [file.name for file in images.FILES["mnist"]])


@pytest.fixture(scope="module")
def cifar10():
    return real("cifar10", images.ARCHIVES["cifar10"].members)


@pytest.fixture(autouse=True)
def web(monkeypatch, tmp_path):
    """What downloads find, by URL; no variable or cache of the user's counts."""
    bodies = {}

    def download(self, url, output_file, pooch):
        if url not in bodies:
            raise OSError(f"the tests are offline, {url} is refused")
        Path(output_file).write_bytes(bodies[url])

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    monkeypatch.setattr(pooch, "os_cache", tmp_path.joinpath)
    monkeypatch.delenv(files.DATA_DIR_VARIABLE, raising=False)
    return bodies


@pytest.fixture
def publish(web, monkeypatch):
    """Put bodies on the web in the place of a data set's files, or of its archive."""

    def published(file, body):
        web[file.url] = body
        content = gzip.decompress(body) if file.unpacked else body
        sha256 = hashlib.sha256(content).hexdigest()
        return file._replace(size=len(content), sha256=sha256)

    def publish(name, *bodies):
        if name in images.ARCHIVES:
            archive = images.ARCHIVES[name]
            archive = archive._replace(file=published(archive.file, *bodies))
            monkeypatch.setitem(images.ARCHIVES, name, archive)
        else:
            files = map(published, images.FILES[name], bodies)
            monkeypatch.setitem(images.FILES, name, tuple(files))

    return publish


def make_images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def mat(x, y):
    """SVHN's format: the images along the last axis, the labels a column."""
    file = io.BytesIO()
    content = {"X": x.transpose(1, 2, 3, 0), "y": np.array(y, np.uint8)[:, None]}
    savemat(file, content, do_compression=True)
    return file.getvalue()


def records(x, *labels):
    """CIFAR's binary format: the labels of an image, then a plane for each color."""
    planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.column_stack([*labels, planes]).astype(np.uint8).tobytes()


def tar(contents):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def idx(array):
    """MNIST's format, before it is packed."""
    shape = np.array(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def pack(content, day):
    """A .gz file, whose header says when it was packed."""
    return gzip.compress(content, mtime=86400 * day)


X_TRAIN, X_TEST = make_images(6), make_images(3, seed=1)
CIFAR100 = {
    "cifar-100-binary/fine_label_names.txt": b"apple\naquarium_fish\n",
    "cifar-100-binary/test.bin": records(X_TEST, [19, 0, 3], [99, 0, 41]),
    "cifar-100-binary/train.bin": records(X_TRAIN, [11] * 6, [19, 29, 0, 11, 1, 86]),
}
CIFAR100_FILES = {name for name in CIFAR100 if name.endswith(".bin")}
CIFAR100_ARCHIVE = "cifar-100-binary.tar.gz"


def write_cifar100(folder):
    for name, content in CIFAR100.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def files_in(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths}


def assert_cifar100(dataset):
    np.testing.assert_array_equal(dataset.x_train, X_TRAIN)
    np.testing.assert_array_equal(dataset.x_test, X_TEST)
    np.testing.assert_array_equal(dataset.y_train, [19, 29, 0, 11, 1, 86])
    np.testing.assert_array_equal(dataset.y_test, [99, 0, 41])


def assert_well_formed(dataset, name, n_classes):
    assert dataset.name == name
    assert dataset.n_classes == n_classes
    assert dataset.x_train.shape[1:] == dataset.x_test.shape[1:]
    assert len(dataset.x_train) == len(dataset.y_train)
    assert len(dataset.x_test) == len(dataset.y_test)
    dtypes = [getattr(dataset, part).dtype for part in PARTS]
    assert dtypes == [np.uint8, np.int32, np.uint8, np.int32]
    assert all(getattr(dataset, part).flags.c_contiguous for part in PARTS)


def test_mnist(mnist):
    assert_well_formed(mnist, "mnist", 10)
    assert mnist.x_train.shape == (60000, 28, 28, 1)
    assert mnist.x_test.shape == (10000, 28, 28, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(mnist.y_train), counts)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(mnist.y_test), counts)
    np.testing.assert_array_equal(mnist.y_train[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(mnist.y_test[:5], [7, 2, 1, 0, 4])


def test_mnist_pixels_are_the_known_ones(mnist):
    x = mnist.x_train / np.float32(255)  # the mean and deviation that everybody uses
    np.testing.assert_allclose([x.mean(), x.std()], [0.1307, 0.3081], atol=5e-5)
    stroke = [3, 18, 18, 18, 126, 136, 175, 26, 166, 255, 247, 127]  # of the first 5
    np.testing.assert_array_equal(mnist.x_train[0, 5, 12:24, 0], stroke)


def test_cifar10(cifar10):
    assert_well_formed(cifar10, "cifar10", 10)
    assert cifar10.x_train.shape == (50000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(cifar10.y_train), [5000] * 10)
    np.testing.assert_array_equal(cifar10.y_train[:5], [6, 9, 9, 4, 1])  # a frog, ...
    np.testing.assert_array_equal(cifar10.y_test[:5], [3, 8, 8, 0, 6])  # a cat, ...


def test_cifar10_has_as_many_test_images_as_its_file(cifar10):
    [path] = REAL_DATA.glob("cifar-10-batches-bin/test_batch.bin")
    assert cifar10.x_test.shape == (path.stat().st_size // 3073, 32, 32, 3)
    assert set(cifar10.y_test) == set(range(10))


def test_cifar10_pixels_are_the_known_ones(cifar10):
    mean = cifar10.x_train.mean(axis=(0, 1, 2))  # of red, green and blue
    np.testing.assert_allclose(mean / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_array_equal(cifar10.x_train[0, 0, 0], [59, 62, 63])
    np.testing.assert_array_equal(cifar10.x_train[0, 0, 1], [43, 46, 45])
    np.testing.assert_array_equal(cifar10.x_test[0, 0, 0], [158, 112, 49])


def test_svhn(publish, tmp_path):
    publish("svhn", mat(X_TRAIN, [1, 9, 10, 2, 10, 5]), mat(X_TEST, [10, 8, 1]))
    dataset = images.load("svhn", tmp_path)
    assert_well_formed(dataset, "svhn", 10)
    np.testing.assert_array_equal(dataset.x_train, X_TRAIN)
    np.testing.assert_array_equal(dataset.x_test, X_TEST)
    np.testing.assert_array_equal(dataset.y_train, [1, 9, 0, 2, 0, 5])
    np.testing.assert_array_equal(dataset.y_test, [0, 8, 1])
    assert files_in(tmp_path) == {"svhn/train_32x32.mat", "svhn/test_32x32.mat"}


def test_cifar100(publish, tmp_path):
    publish("cifar100", tar(CIFAR100))
    dataset = images.load("cifar100", tmp_path)
    assert_well_formed(dataset, "cifar100", 100)
    assert_cifar100(dataset)
    assert files_in(tmp_path) == {CIFAR100_ARCHIVE, *CIFAR100_FILES}
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "cifar-100-binary"
    }


def test_cifar100_takes_a_sample_and_says_so():
    dataset = real("cifar100", images.ARCHIVES["cifar100"].members)
    assert_well_formed(dataset, "cifar100", 100)
    assert set(dataset.y_train) == set(dataset.y_test) == set(range(100))
    train, test = len(dataset.y_train), len(dataset.y_test)
    sizes = [path.stat().st_size for path in REAL_DATA.glob("cifar-100-binary/*.bin")]
    assert sorted(sizes) == [3074 * test, 3074 * train]
    assert ("sample" in images.size("cifar100", train, test)) == (train < 50_000)


def test_cifar10_keeps_the_order_of_its_batches(publish, tmp_path):
    batches = [make_images(2, seed) for seed in range(6)]
    members = images.ARCHIVES["cifar10"].members
    contents = {
        name: records(x, [batch] * 2)
        for batch, (name, x) in enumerate(zip(members, batches, strict=True))
    }
    publish("cifar10", tar(dict(reversed(contents.items()))))
    dataset = images.load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.x_train, np.concatenate(batches[:5]))
    np.testing.assert_array_equal(dataset.y_train, np.repeat(range(5), 2))
    np.testing.assert_array_equal(dataset.x_test, batches[5])


def test_default_folder_is_made_on_demand(publish, tmp_path):
    publish("cifar100", tar(CIFAR100))
    assert_cifar100(images.load("cifar100"))
    assert files_in(tmp_path / "dsa_optax") == {CIFAR100_ARCHIVE, *CIFAR100_FILES}


def test_folder_may_be_relative(publish, tmp_path, monkeypatch):
    publish("cifar100", tar(CIFAR100))
    monkeypatch.chdir(tmp_path)
    assert_cifar100(images.load("cifar100", "."))


def test_extracted_files_need_no_archive(tmp_path):
    write_cifar100(tmp_path)
    assert_cifar100(images.load("cifar100", tmp_path))


def test_archive_in_the_folder_is_not_downloaded(publish, web, tmp_path):
    publish("cifar100", tar(CIFAR100))
    (tmp_path / CIFAR100_ARCHIVE).write_bytes(tar(CIFAR100))
    web.clear()
    assert_cifar100(images.load("cifar100", tmp_path))


def test_only_the_missing_member_is_extracted(publish, tmp_path):
    publish("cifar100", tar(CIFAR100))
    path = tmp_path / "cifar-100-binary" / "test.bin"
    path.parent.mkdir()
    path.write_bytes(CIFAR100["cifar-100-binary/test.bin"][:3074])
    dataset = images.load("cifar100", tmp_path)
    np.testing.assert_array_equal(dataset.x_train, X_TRAIN)
    np.testing.assert_array_equal(dataset.y_test, [99])


def test_interrupted_extraction_leaves_the_archive_alone(
    publish, tmp_path, monkeypatch
):
    publish("cifar100", tar(CIFAR100))

    def interrupt(self, path, extract_dir):
        partial = Path(extract_dir, "cifar-100-binary", "train.bin")
        partial.parent.mkdir()
        partial.write_bytes(CIFAR100["cifar-100-binary/train.bin"][:3074])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pooch.Untar, "_extract_file", interrupt)
        with pytest.raises(KeyboardInterrupt):
            images.load("cifar100", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CIFAR100_ARCHIVE]
    assert_cifar100(images.load("cifar100", tmp_path))


def test_extraction_goes_on_where_it_was_interrupted(publish, tmp_path, monkeypatch):
    publish("cifar100", tar(CIFAR100))

    def fail_at_the_second(source, target):
        if Path(target).name == "test.bin":
            raise OSError("the disk is full")
        Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_at_the_second)
        with pytest.raises(files.DataError, match="can't be extracted") as raised:
            images.load("cifar100", tmp_path)
    assert "the disk is full" in str(raised.value)
    assert files_in(tmp_path) == {CIFAR100_ARCHIVE, "cifar-100-binary/train.bin"}
    assert_cifar100(images.load("cifar100", tmp_path))


@pytest.mark.parametrize("name", images.DATASETS)
def test_missing_files_offline(name, tmp_path):
    if name in images.ARCHIVES:
        file = images.ARCHIVES[name].file
    else:
        file = images.FILES[name][0]
    with pytest.raises(files.DataError, match="is missing") as raised:
        images.load(name, tmp_path)
    for part in (tmp_path / file.name, file.url, file.sha256, file.size, "--data-dir"):
        assert str(part) in str(raised.value)
    assert not files_in(tmp_path)


FASHION = [idx(a) for a in (X_TRAIN[..., 0], np.arange(6, dtype=np.uint8))]
FASHION += [idx(a) for a in (X_TEST[..., 0], np.arange(3, dtype=np.uint8))]


def test_fashion_mnist_may_be_packed_on_another_day(publish, web, tmp_path):
    publish("fashion-mnist", *(pack(content, 1) for content in FASHION))
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    name = images.FILES["fashion-mnist"][2].name
    (tmp_path / name).write_bytes(pack(FASHION[2], 9))  # as Debian's
    dataset = images.load("fashion-mnist", tmp_path)
    assert dataset.name == "fashion-mnist"
    np.testing.assert_array_equal(dataset.x_train, X_TRAIN[..., :1])
    np.testing.assert_array_equal(dataset.x_test, X_TEST[..., :1])
    assert dataset.y_train.tolist() == list(range(6))
    assert (tmp_path / name).read_bytes() == pack(FASHION[2], 9)
    (tmp_path / name).write_bytes(pack(FASHION[0], 1))
    with pytest.raises(files.DataError, match="is damaged: it has"):
        images.load("fashion-mnist", tmp_path)
    (tmp_path / name).write_bytes(pack(FASHION[2], 1)[:40])
    with pytest.raises(files.DataError, match="can't be read"):
        images.load("fashion-mnist", tmp_path)


def test_tiny_shakespeare():
    if not (REAL_DATA / text.FILES[0].name).exists():
        pytest.skip(f"no {text.FILES[0].name} in {REAL_DATA}")
    assert text.load(REAL_DATA).startswith("First Citizen:\nBefore we proceed")


def test_bad_download_of_an_archive_leaves_nothing(publish, web, tmp_path):
    publish("cifar100", tar(CIFAR100))
    for url in web:
        web[url] = web[url][:100]
    with pytest.raises(files.DataError, match="downloading it failed"):
        images.load("cifar100", tmp_path)
    assert not files_in(tmp_path)


WRONG_MAGIC = gzip.compress(bytes([0, 0, 13, 1, 0, 0, 0, 1, 5]))
DAMAGED = {
    "truncated gz": ("mnist", WRONG_MAGIC[:15]),
    "wrong magic number": ("mnist", WRONG_MAGIC),
    "truncated mat": ("svhn", mat(X_TRAIN, [1] * 6)[:1000]),
    "not a mat": ("svhn", b"<html>404</html>"),
}


@pytest.mark.parametrize(("name", "content"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_reported_and_kept(name, content, tmp_path):
    file = images.FILES[name][0]
    path = tmp_path / file.name
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(files.DataError, match="is damaged") as raised:
        images.load(name, tmp_path)
    for part in (path, "delete it", file.url, file.sha256, files.DATA_DIR_VARIABLE):
        assert str(part) in str(raised.value)
    assert path.read_bytes() == content


def test_damaged_archive_is_reported_and_kept(tmp_path):
    path = tmp_path / CIFAR100_ARCHIVE
    path.write_bytes(tar(CIFAR100)[:100])
    with pytest.raises(files.DataError, match=f"{path} is damaged: it has 100 bytes"):
        images.load("cifar100", tmp_path)
    assert files_in(tmp_path) == {CIFAR100_ARCHIVE}


TRAIN = CIFAR100["cifar-100-binary/train.bin"]
DAMAGED_MEMBERS = {
    "half a record": (TRAIN[:-1537], "16907 bytes are not a whole number of 3074-byte"),
    "empty": (b"", "0 bytes are not"),
    "fine label": (records(X_TRAIN, [0] * 6, [1, 2, 100, 3, 4, 5]), "2 has the label"),
    "coarse label": (records(X_TRAIN, [0] * 5 + [20], [0] * 6), "the label 20, of 20"),
    "CIFAR-10's labels": (records(make_images(3074), [9] * 3074), "has the label"),
}


@pytest.mark.parametrize(
    ("content", "problem"), DAMAGED_MEMBERS.values(), ids=DAMAGED_MEMBERS
)
def test_damaged_member_is_reported_and_kept(content, problem, tmp_path):
    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-binary" / "train.bin"
    path.write_bytes(content)
    with pytest.raises(files.DataError, match="is damaged") as raised:
        images.load("cifar100", tmp_path)
    file = images.ARCHIVES["cifar100"].file
    for part in (path, problem, "Delete it", file.name, file.url, "--data-dir"):
        assert str(part) in str(raised.value)
    assert path.read_bytes() == content


def test_deleting_a_damaged_member_mends_it(publish, tmp_path):
    publish("cifar100", tar(CIFAR100))
    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-binary" / "train.bin"
    path.write_bytes(TRAIN[:-1])
    with pytest.raises(files.DataError, match="is damaged"):
        images.load("cifar100", tmp_path)
    path.unlink()
    assert_cifar100(images.load("cifar100", tmp_path))


def test_member_that_cannot_be_read(tmp_path):
    path = tmp_path / "cifar-100-binary" / "train.bin"
    write_cifar100(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(files.DataError, match=r"train\.bin can't be read"):
        images.load("cifar100", tmp_path)


def test_unknown_name():
    with pytest.raises(
        ValueError, match="'iris'; known: mnist, fashion-mnist, svhn, cifar10"
    ):
        images.load("iris")


@pytest.mark.parametrize("convert", [images.to_inputs, jax.jit(images.to_inputs)])
def test_inputs_are_float32_from_0_to_1(convert):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for given in (images, jnp.asarray(images)):
        inputs = convert(given)
        assert inputs.dtype == jnp.float32
        np.testing.assert_allclose(inputs, images / 255, rtol=2e-7)
        assert (inputs.min(), inputs.max()) == (0, 1)
