"""Images on a web server or in a bucket are the images of the folder that they were made of."""

from __future__ import annotations

import csv
import json
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinoscope import remote
from dinoscope.data.finding import containers_at, find_images, find_split, resolve_split
from dinoscope.data.reader import UnreadableImage
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.places import parse_place
from tests.containers import WRITERS, write_tar, write_zip
from tests.data.test_archives import tar_of
from tests.servers import WebServer, web_server

pytest.importorskip("aiohttp", reason="needs aiohttp (extra remote)")
pytest.importorskip("pyarrow", reason="needs pyarrow (extra parquet)")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(remote, "_WAIT", 0)
    monkeypatch.setattr(remote, "_REMEMBERED", 0)
    (tmp_path / "served").mkdir()
    with web_server(tmp_path / "served") as serving:
        yield serving


def assert_same(images: ImageSource, expected: ImageSource) -> None:
    assert tuple(images.keys) == tuple(expected.keys)
    assert (images.labels is None) == (expected.labels is None)
    assert tuple(images.labels or ()) == tuple(expected.labels or ())
    assert images.classes == expected.classes
    assert images.fingerprint() == expected.fingerprint()
    for index in range(len(images)):
        np.testing.assert_array_equal(images.read(index).values, expected.read(index).values)
        assert images.header(index) == expected.header(index)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_images_as_in_the_folder(picture_folder, server: WebServer, kind: str) -> None:
    picture_folder(8, classes=2, split="train")
    folder = picture_folder(4, classes=2, split="val")
    file = WRITERS[kind](folder, server.folder / "made")
    place = parse_place(f"{server.address}/{file.name}")
    for split in ("train", "val"):
        assert find_split(place, split) == place / split
        assert_same(find_images(resolve_split(place, split), labelled=True), find_images(folder / split))
    server.requests.clear()
    find_images(place / "train")
    assert {method for method, _, _ in server.requests} == {"HEAD"}  # the index is known
    file.write_bytes(WRITERS[kind](folder / "val", server.folder / "other").read_bytes())
    assert len(find_images(place)) == 4


def test_large_images_are_skipped_while_the_index_is_made(server: WebServer) -> None:
    noise = np.random.default_rng(0).bytes(400_000)
    file = tar_of(server.folder / "a.tar", {f"{number}.png": noise for number in range(20)})
    assert len(find_images(parse_place(f"{server.address}/a.tar"))) == 20
    assert server.sent() < file.stat().st_size / 4


def test_small_images_need_few_requests(server: WebServer) -> None:
    file = tar_of(server.folder / "a.tar", {f"{number}.png": bytes(2_000) for number in range(2_000)})
    assert len(find_images(parse_place(f"{server.address}/a.tar"))) == 2_000
    assert len(server.requests) < 15
    assert server.sent() < 1.1 * file.stat().st_size


def test_shards(picture_folder, server: WebServer) -> None:
    folder = picture_folder(12, classes=3)
    for number in range(3):
        files = sorted((folder / f"class{number}").iterdir())
        contents = {f"class{number}/{file.name}": file.read_bytes() for file in files}
        tar_of(server.folder / f"shard-{number:03d}.tar", contents)
    assert_same(find_images(parse_place(f"{server.address}/shard-{{000..002}}.tar")), find_images(folder))
    with pytest.raises(UserError, match=r"shard-003\.tar: cannot be read: there is no such file"):
        find_images(parse_place(f"{server.address}/shard-{{000..003}}.tar"))
    with pytest.raises(UserError, match="no list of its files"):
        find_images(parse_place(f"{server.address}/shard-*.tar"))


def write_list(folder: Path, number: int) -> Path:
    with (folder / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient"])
        for index, image in enumerate(sorted(folder.rglob("*.png"))):
            table.writerow([image.relative_to(folder).as_posix(), str(index % number), f"p{index // 2}"])
    return folder / "list.csv"


def test_a_list(picture_folder, server: WebServer) -> None:
    folder = server.folder / "pictures"
    picture_folder(12, classes=2).rename(folder)
    file = write_list(folder, 11)
    images, expected = find_images(parse_place(f"{server.address}/pictures/list.csv")), find_images(file)
    assert_same(images, expected)
    assert images.classes[2] == "10"  # sorted as texts, as in a list on this machine
    assert tuple(images.groups or ()) == expected.groups
    assert images.grouping == "column patient"
    (folder / expected.keys[3]).unlink()
    file.write_text(file.read_text() + "\n")
    images = find_images(parse_place(f"{server.address}/pictures/list.csv"))
    assert images.keys == expected.keys
    with pytest.raises(UnreadableImage):
        images.read(3)
    (folder / "bad.txt").write_text("../made.png\n")
    with pytest.raises(UserError, match="not below the folder"):
        find_images(parse_place(f"{server.address}/pictures/bad.txt"))
    for name in ("scan.nii.gz#axis=2,slice=17", "made.png?token=1"):
        (folder / "parts.csv").write_text(f"path\n{name}\n")
        with pytest.raises(UserError, match="names whole files"):
            find_images(parse_place(f"{server.address}/pictures/parts.csv"))


def test_faults_of_a_server_at_the_start(picture_folder, server: WebServer) -> None:
    write_tar(picture_folder(4), server.folder / "made")
    place = parse_place(f"{server.address}/made.tar")
    server.faults = [503, "cut"]
    assert len(find_images(place)) == 4
    write_tar(picture_folder(5), server.folder / "made")
    server.faults = [503] * 9
    with pytest.raises(UserError, match=r"made\.tar: cannot be read: the server answers 503"):
        find_images(place)
    assert len(server.faults) == 6
    server.faults = [403] * 9
    with pytest.raises(UserError, match="403"):
        find_images(place)
    assert len(server.faults) == 8  # asking again is of no use
    server.faults = []
    server.ranges = False
    with pytest.raises(UserError, match="whole files only"):
        find_images(parse_place(f"{server.address}/made.tar"))
    for name, reason in {
        "no.tar": "no such file",
        "pictures": "folders are not read",
        "made.tar.gz": "compressed tar files",
        "made.tar/none": "no images in it",
    }.items():
        server.ranges = True
        with pytest.raises(UserError, match=f"{server.address}/{name}: .*{reason}"):
            find_images(parse_place(f"{server.address}/{name}"))


def test_faults_of_a_server_later(picture_folder, server: WebServer) -> None:
    file = write_tar(picture_folder(4), server.folder / "made")
    images = find_images(parse_place(f"{server.address}/made.tar"))
    expected = images.read(2).values
    server.faults = ["cut", 500]
    np.testing.assert_array_equal(images.read(2).values, expected)
    for faults, reason in ((["cut"] * 3, "cannot be read"), ([502] * 3, "answers 502"), ([404], "no such file")):
        server.faults = list(faults)
        with pytest.raises(UnreadableImage, match=reason):
            images.read(2)
        assert server.faults == []
    file.write_bytes(b"")
    with pytest.raises(UnreadableImage, match="0 bytes"):
        images.read(2)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAIT", 0)
    with pytest.raises(UserError, match="no connection to its server"):
        find_images(parse_place("http://127.0.0.1:9/a.tar"))


def test_fetching_is_switched_off(picture_folder, server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(picture_folder(4), server.folder / "made")
    place = parse_place(f"{server.address}/made.tar")
    images = find_images(place)
    monkeypatch.setenv("DINOSCOPE_OFFLINE", "1")
    server.requests.clear()
    with pytest.raises(UserError, match="switched off"):
        find_images(place)
    with pytest.raises(UserError, match="switched off"):
        images.read(0)
    assert server.requests == []


def _read(images: ImageSource, answer: multiprocessing.Queue[float]) -> None:
    answer.put(float(images.read(1).values.mean()))


def test_another_process_has_connections_of_its_own(picture_folder, server: WebServer) -> None:
    write_zip(picture_folder(4), server.folder / "made")
    images = find_images(parse_place(f"{server.address}/made.zip"))
    expected = float(images.read(1).values.mean())
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    process = context.Process(target=_read, args=(images, answer))
    process.start()
    assert answer.get(timeout=60) == expected
    process.join()
    sent: ImageSource = pickle.loads(pickle.dumps(images))
    assert float(images.read(1).values.mean()) == float(sent.read(1).values.mean()) == expected


def test_credentials_come_from_the_environment(picture_folder, server: WebServer) -> None:
    import fsspec.config

    write_tar(picture_folder(4), server.folder / "made")
    environment = {"FSSPEC_HTTP": json.dumps({"headers": {"Authorization": "Bearer secret"}})}
    fsspec.config.set_conf_env(fsspec.config.conf, environment)
    remote._system.cache_clear()
    try:
        find_images(parse_place(f"{server.address}/made.tar")).read(0)
    finally:
        fsspec.config.conf.clear()
        remote._system.cache_clear()
    assert {headers.get("Authorization") for headers in server.headers} == {"Bearer secret"}


# Buckets


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs (extra remote)")
    import fsspec

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "_WAIT", 0)
    remote._system.cache_clear()
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("images")
    yield "s3://images"
    server.stop()
    remote._system.cache_clear()


def test_a_bucket(picture_folder, tmp_path: Path, bucket: str) -> None:
    import fsspec

    system = fsspec.filesystem("s3", skip_instance_cache=True)
    folder = picture_folder(12, classes=2)
    for number in range(2):
        file = write_zip(folder / f"class{number}", tmp_path / "part")
        system.put_file(str(file), f"images/shards/{number:03d}.zip")
    file = write_tar(folder, tmp_path / "made")
    system.put_file(str(file), "images/made.tar")
    assert_same(find_images(parse_place(f"{bucket}/made.tar")), find_images(folder))
    shards = find_images(parse_place(f"{bucket}/shards/*.zip"))
    assert shards.keys == find_images(parse_place(f"{bucket}/shards/{{000..001}}.zip")).keys
    assert len(shards) == 12
    for name, reason in {"none.tar": "no such file", "shards/x*.zip": "no file matches"}.items():
        with pytest.raises(UserError, match=reason):
            find_images(parse_place(f"{bucket}/{name}"))
    with pytest.raises(UserError, match="no such file"):
        find_images(parse_place("s3://nothing/a.tar"))


# Addresses


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gs://bucket/a.tar", "were not tried"),
        ("hf://datasets/a/b.parquet", "were not tried"),
        ("https://user:secret@host/a.tar", "Credentials"),
        ("https://host/a.tar?X-Amz-Signature=secret", "Credentials"),
        ("https://host", "not the address of a file"),
        ("s3://bucket/a//b.tar", "empty part"),
        ("s3://bucket/../b.tar", "empty part"),
    ],
)
def test_addresses_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        parse_place(text)
    assert "secret" not in str(caught.value)


def test_the_archive_within_an_address() -> None:
    for text, archive, inside in (
        ("https://my.zip/a/b.tar", "https://my.zip/a/b.tar", ""),
        ("https://host/b.tar/c/d.zip", "https://host/b.tar", "c/d.zip"),
        ("s3://my.tar/B.ZIP/train", "s3://my.tar/B.ZIP", "train"),
    ):
        assert containers_at(parse_place(text)) == ([parse_place(archive)], inside)


def test_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "aiohttp", None)
    remote._system.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'dinoscope\[remote\]'"):
        find_images(parse_place("https://host/a.tar"))
