"""`dinoscope embed --patches`: the values of every format, memory, and that a file is whole or absent."""

from __future__ import annotations

import importlib.util
import json
import os
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image

import dinoscope
from dinoscope import checkpoint
from dinoscope.cli import call, main
from dinoscope.data.finding import find_images
from dinoscope.errors import UserError
from dinoscope.explain import patch_features
from dinoscope.explain.attention import prepare
from dinoscope.explain.patch_features import FORMATS, Block, Format, PatchConfig, Record, load_patches, tokens_after
from dinoscope.features import ExtractConfig
from dinoscope.model_names import wrap
from dinoscope.models.backbone import BackboneConfig, build_backbone
from tests.pictures import draw_picture

MakeFolder = Callable[..., Path]
PACKAGES = {"npz": "numpy", "parquet": "pyarrow", "zarr": "zarr"}
SIZE = 32


@pytest.fixture(params=PACKAGES)
def kind(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"needs {PACKAGES[request.param]}")
    return request.param


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder of a tiny network with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    checkpoint.export_backbone(folder, build_backbone(BackboneConfig("vit_micro_conv8", image_size=SIZE)))
    return folder


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Pictures of three grids, in an order in which a file of one grid has to become one of several."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, size in enumerate([(32, 40), (32, 40), (64, 32), (50, 50), (32, 40)]):
        Image.fromarray(draw_picture(number, size)).save(folder / f"{number}.png")
    return folder


def run(model: Path | str, data: Path, out: Path, *options: object) -> int:
    paths = ["--model", model, "--data", data, "--out", out, "--device", "cpu", "--workers", 0]
    return call("embed", ["--patches", *map(str, [*paths, *options])])


def read(file: Path) -> tuple[list[ndarray], dict[str, ndarray], dict[str, object]]:
    """The patches of each image [rows, columns, d], the arrays next to them, and the info, by plain readers."""
    if file.suffix != ".parquet":
        stored = load_patches(file)
        return list(stored), stored.arrays, stored.info
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    columns = {name: np.array(table[name].to_pylist()) for name in ("path", "label", "frame", "y", "x")}
    sides = np.stack([table[name].to_numpy() for name in ("height", "width")], axis=1)
    features = np.stack(table["feature"].to_numpy(zero_copy_only=False))
    starts = np.flatnonzero((columns["y"] == 0) & (columns["x"] == 0))
    patches: list[ndarray] = []
    for start, end in zip(starts, [*starts[1:], len(table)], strict=True):
        rows, width = columns["y"][end - 1] + 1, columns["x"][end - 1] + 1
        assert np.array_equal(columns["y"][start:end], np.repeat(np.arange(rows), width))
        assert np.array_equal(columns["x"][start:end], np.tile(np.arange(width), rows))
        patches.append(features[start:end].reshape(rows, width, -1))
    arrays = {"path": columns["path"][starts], "size": sides[starts]}
    arrays["grid"] = np.array([each.shape[:2] for each in patches])
    for name in ("label", "frame"):
        if columns[name][0] is not None:
            arrays[name] = columns[name][starts]
    if "cls" in table.column_names:
        tokens = table["cls"].to_pylist()
        assert [at for at, token in enumerate(tokens) if token is not None] == starts.tolist()
        arrays["cls"] = np.array([tokens[at] for at in starts], features.dtype)
    return patches, arrays, json.loads(pq.read_metadata(file).metadata[b"dinoscope"])


def expected(model: Path, image: ndarray, *, square: bool = False) -> tuple[ndarray, ndarray]:
    """What the network gives for one image: patches [rows, columns, d] and class token."""
    backbone = checkpoint.load_backbone(model).eval()
    pixels = prepare(image, SIZE, backbone.patch_size, square=square)
    with torch.no_grad():
        tokens = backbone(backbone.normalize(pixels[None]))
    assert tokens.cls is not None
    return tokens.patches[0].unflatten(0, tokens.grid).numpy(), tokens.cls[0].numpy()


def pictures(folder: Path) -> list[ndarray]:
    return [np.array(Image.open(file).convert("RGB")) for file in sorted(folder.rglob("*.png"))]


# Values


def test_features_are_those_of_the_network(kind: str, model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    """One at a time, they are the same bit for bit; in the order of the images, rows from the top."""
    folder = picture_folder(5, classes=2)
    assert run(model, folder, tmp_path / f"f.{kind}", "--batch-size", 1) == 0
    patches, arrays, info = read(tmp_path / f"f.{kind}")
    assert len(patches) == 5
    for number, image in enumerate(pictures(folder)):
        values, token = expected(model, image)
        assert patches[number].dtype == np.float32
        assert np.array_equal(patches[number], values)
        assert np.array_equal(arrays["cls"][number], token)
    assert arrays["path"].tolist() == list(find_images(folder).keys)
    assert arrays["label"].tolist() == ["class0"] * 3 + ["class1"] * 2
    assert arrays["size"].tolist() == [[32, 40]] * 5
    assert arrays["grid"].tolist() == [[4, 5]] * 5
    assert "frame" not in arrays
    backbone = checkpoint.load_backbone(model)
    assert info["weights"] == checkpoint.weights_hash(backbone)
    assert (info["patch_size"], info["dim"], info["images"]) == (8, backbone.dim, 5)
    assert info["preprocessing"]["short_side"] == SIZE  # pyright: ignore[reportIndexIssue]
    assert (info["normalized"], info["left_out"]) == (False, {})


def test_different_grids(kind: str, model: Path, mixed: Path, tmp_path: Path) -> None:
    assert run(model, mixed, tmp_path / f"f.{kind}", "--batch-size", 2) == 0
    patches, arrays, _ = read(tmp_path / f"f.{kind}")
    for found, token, image in zip(patches, arrays["cls"], pictures(mixed), strict=True):
        values, own = expected(model, image)
        np.testing.assert_allclose(found, values, atol=2e-5)
        np.testing.assert_allclose(token, own, atol=2e-5)
    assert arrays["grid"].tolist() == [[4, 5], [4, 5], [8, 4], [4, 4], [4, 5]]
    assert arrays["size"].tolist() == [[32, 40], [32, 40], [64, 32], [50, 50], [32, 40]]


def test_squares_have_one_grid(kind: str, model: Path, mixed: Path, tmp_path: Path) -> None:
    assert run(model, mixed, tmp_path / f"f.{kind}", "--square", "--batch-size", 1) == 0
    patches, arrays, _ = read(tmp_path / f"f.{kind}")
    assert arrays["grid"].tolist() == [[4, 4]] * 5
    for found, image in zip(patches, pictures(mixed), strict=True):
        assert np.array_equal(found, expected(model, image, square=True)[0])


def test_half_precision_and_unit_length(kind: str, model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    folder = picture_folder(3)
    assert run(model, folder, tmp_path / f"f.{kind}", "--float16", "--normalize", "--batch-size", 1) == 0
    patches, arrays, info = read(tmp_path / f"f.{kind}")
    values, token = expected(model, pictures(folder)[0])
    assert (patches[0].dtype, arrays["cls"].dtype, info["normalized"]) == (np.float16, np.float16, True)
    np.testing.assert_allclose(patches[0], values / np.linalg.norm(values, axis=-1, keepdims=True), atol=1e-3)
    np.testing.assert_allclose(arrays["cls"][0], token / np.linalg.norm(token), atol=1e-3)


@pytest.mark.parametrize("block", [0, -2])
def test_an_earlier_block(block: int, model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    folder = picture_folder(1)
    assert run(model, folder, tmp_path / "f.npz", "--block", block) == 0
    backbone = checkpoint.load_backbone(model).eval()
    transformer = backbone.transformer
    assert transformer is not None
    images = backbone.normalize(prepare(pictures(folder)[0], SIZE, backbone.patch_size)[None])
    with torch.no_grad():
        tokens = transformer.embed(images)[0]
        for module in list(transformer.blocks)[: block + 1 or None]:
            tokens = module(tokens)
        tokens = transformer.norm(tokens)
        last = tokens_after(backbone, images, len(transformer.blocks) - 1)
        assert torch.equal(last.patches, backbone(images).patches)
    stored = load_patches(tmp_path / "f.npz")
    assert np.array_equal(stored[0].reshape(20, -1), tokens[0, transformer.prefix :].numpy())
    assert np.array_equal(stored.arrays["cls"][0], tokens[0, 0].numpy())


def test_a_resnet_has_patches_and_no_class_token(
    kind: str, picture_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder(2)
    assert run("random:resnet_micro", folder, tmp_path / f"f.{kind}", "--image-size", SIZE) == 0
    patches, arrays, info = read(tmp_path / f"f.{kind}")
    assert patches[0].shape[:2] == tuple(arrays["grid"][0])
    assert patches[0].shape[2] == info["dim"]
    assert "cls" not in arrays
    with pytest.raises(UserError, match="has none"):
        run("random:resnet_micro", folder, tmp_path / f"g.{kind}", "--block", 1)


def test_names_that_are_not_utf8(kind: str, model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    folder = picture_folder(4, classes=2)
    try:
        (folder / "class1").rename(folder / os.fsdecode(b"\xff"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert run(model, folder, tmp_path / f"f.{kind}") == 0
    _, arrays, _ = read(tmp_path / f"f.{kind}")
    assert arrays["label"].tolist() == ["class0", "class0", "\ufffd", "\ufffd"]
    assert arrays["path"][3] == "\ufffd/0003.png"


def test_unreadable_images_are_named(
    kind: str, model: Path, picture_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture_folder(3)
    (folder / "0001.png").write_bytes(b"no image")
    assert run(model, folder, tmp_path / f"f.{kind}") == 0
    told = capsys.readouterr()
    assert "1 cannot be read" in told.err
    assert "0001.png" in told.err
    assert "2 images x 4 x 5 patches x 96 features" in told.out
    patches, arrays, info = read(tmp_path / f"f.{kind}")
    assert (len(patches), arrays["path"].tolist(), list(info["left_out"])) == (  # pyright: ignore[reportArgumentType]
        2,
        ["0000.png", "0002.png"],
        ["0001.png"],
    )


# Videos


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Seven frames as a video without loss, and as PNGs in frames/."""
    (tmp_path / "frames").mkdir()
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), 12, (48, 32))
    for number in range(7):
        frame = draw_picture(number, (32, 48))
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    for number, frame in enumerate(frames_of(path)):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    return path


def frames_of(path: Path) -> Iterator[ndarray]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while (frame := capture.read())[0]:
        yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)


def test_frames_of_a_video_are_like_images(
    kind: str, model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, clip, tmp_path / f"v.{kind}", "--batch-size", 3) == 0
    assert "7 frames x 4 x 6 patches x 96 features" in capsys.readouterr().out
    assert run(model, tmp_path / "frames", tmp_path / f"i.{kind}", "--batch-size", 3) == 0
    of_video, arrays, info = read(tmp_path / f"v.{kind}")
    of_images, _, _ = read(tmp_path / f"i.{kind}")
    assert len(of_video) == 7
    assert np.array_equal(of_video, of_images)
    assert arrays["frame"].tolist() == list(range(7))
    assert arrays["path"].tolist() == ["clip.avi"] * 7
    assert info["video"] == {"fps": 12.0, "height": 32, "width": 48}


# Other programs


def test_pandas_reads_parquet(model: Path, clip: Path, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    run(model, clip, tmp_path / "f.parquet")
    # as in docs/patch-features.md
    table = pd.read_parquet(tmp_path / "f.parquet")
    frame3 = np.stack(table[table.frame == 3].feature)
    assert frame3.shape == (24, 96)
    assert np.stack(table.cls.dropna()).shape == (7, 96)


def test_xarray_reads_zarr(model: Path, clip: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    xr = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    run(model, clip, tmp_path / "f.zarr")
    recwarn.clear()
    # as in docs/patch-features.md
    data = xr.open_zarr(tmp_path / "f.zarr")
    frame3 = data.patches.sel(image=data.frame == 3)
    assert frame3.dims == ("image", "y", "x", "feature")
    assert frame3.shape == (1, 4, 6, 96)
    assert data.patches.dtype == np.float32
    assert set(data.patches.coords) == {"path", "frame"}
    assert not recwarn.list


def test_numpy_reads_npz_and_the_same_call_gives_the_same_bytes(model: Path, clip: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        run(model, clip, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    # as in docs/patch-features.md
    file = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert file["patches"].shape == (7, 4, 6, 96)
    assert json.loads(str(file["info"]))["patch_size"] == 8
    assert np.array_equal(dinoscope.load_patches(tmp_path / "a.npz")[-1], file["patches"][-1])
    assert isinstance(load_patches(tmp_path / "a.npz").patches, np.memmap)


# Memory


def blocks(count: int, grids: Callable[[int], tuple[int, int]]) -> Iterator[Block]:
    for number in range(count):
        patches = np.full((4, *grids(number), 64), number, np.float32)
        yield Block(list(range(4 * number, 4 * number + 4)), [(8, 8)] * 4, patches, patches[:, 0, 0])


@pytest.mark.parametrize("grids", [lambda number: (16, 16), lambda number: (16, 16 + number // 30)])
def test_writers_hold_one_block(kind: str, tmp_path: Path, grids: Callable[[int], tuple[int, int]]) -> None:
    """Of 60 blocks of 256 kB, the peak is that of a few, whether they have one grid or change it halfway."""
    record, path = Record("a", [str(number) for number in range(240)], None, {}), tmp_path / f"f.{kind}"
    warm = Record("a", ["0"] * 4, None, {})
    FORMATS[f".{kind}"].write(tmp_path / f"warm.{kind}", warm.noting(blocks(1, grids)), warm)  # what imports take
    pool = importlib.import_module("pyarrow").default_memory_pool() if kind == "parquet" else None
    allocated: list[int] = []

    def watched(given: Iterable[Block]) -> Iterator[Block]:
        for block in given:
            allocated.append(0 if pool is None else pool.bytes_allocated())
            yield block

    tracemalloc.start()
    try:
        FORMATS[f".{kind}"].write(path, watched(record.noting(blocks(60, grids))), record)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20 + 2 * patch_features._COPIED_BYTES * (kind == "npz")
    assert max(allocated) - allocated[0] < 4 * 2**20
    patches, *_ = read(path)
    assert [each[0, 0, 0] for each in patches] == [number // 4 for number in range(240)]


def test_a_block_has_no_more_patches_than_are_allowed(
    model: Path, picture_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_features, "MAX_BLOCK_PATCHES", 50)
    sizes: list[int] = []

    def counting(path: Path, given: Iterable[Block], record: Record) -> None:
        path.touch()
        sizes.extend(len(block.positions) for block in given)

    monkeypatch.setitem(FORMATS, ".npz", Format(counting))
    run(model, picture_folder(5), tmp_path / "f.npz")
    assert sizes == [2, 2, 1]  # of 20 patches each
    sizes.clear()
    run(model, picture_folder(5), tmp_path / "f.npz", "--image-size", 96, "--overwrite")
    assert sizes == [1] * 5


# Whole or absent


def test_an_interrupted_file_leaves_nothing(
    kind: str, model: Path, picture_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = picture_folder(5), tmp_path / "out" / f"f.{kind}"
    described, calls = patch_features._described, 0

    def stopped(*given: object) -> Block:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return described(*given)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(patch_features, "_described", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(model, folder, out, "--batch-size", 1)
    assert list(out.parent.iterdir()) == []
    assert run(model, folder, out, "--batch-size", 1) == 0
    before = read(out)
    calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(patch_features, "_described", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(model, folder, out, "--batch-size", 1, "--overwrite")
    assert list(out.parent.iterdir()) == [out]
    assert np.array_equal(read(out)[0], before[0])
    with pytest.raises(UserError, match="--overwrite"):
        run(model, folder, out)
    assert run(model, picture_folder(2, name="others"), out, "--overwrite") == 0
    assert len(read(out)[0]) == 2
    assert list(out.parent.iterdir()) == [out]


def test_a_folder_that_is_no_store_stays(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    out = tmp_path / "f.zarr"
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(UserError, match="no zarr store"):
        run(model, picture_folder(1), out, "--overwrite")
    assert (out / "precious").exists()


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patches", "--out", "f.txt"], ".npz"),
        (["--patches", "--out", "f"], ".npz"),
        (["--patches", "--out", "f.csv"], ".npz"),
        (["--out", "f.zarr"], ".npz"),
        (["--out", "f.npz", "--square"], "--patches"),
        (["--out", "f.npz", "--format", "npz"], "--patches"),
        (["--patches", "--out", "f.npz", "--crop-fraction", "0.9"], "--crop-fraction"),
        (["--patches", "--out", "f.npz", "--image-size", "7"], "one patch of 8 px"),
        (["--patches", "--out", "f.npz", "--block", "99"], "no block 99"),
        (["--patches", "--out", "f.npz", "--batch-size", "-1"], "batch size"),
        (["--patches", "--out", "f.npz", "--data", "none.mp4"], "none.mp4"),
        (["--patches", "--out", "f.npz", "--data", "https://a.org/clip.mp4"], "on this machine"),
        (["--patches", "--out", "f.npz", "--data", "a.mp4", "--data", "b.mp4"], "on this machine"),
        (["--patches", "--out", "f.npz", "--model", "patches"], "one feature for an image"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str],
    message: str,
    model: Path,
    picture_folder: MakeFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = picture_folder(2)
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        Path(name).touch()
    given = {"--model": str(model), "--data": str(folder), "--device": "cpu"}
    extra = [word for name, value in given.items() if name not in options for word in (name, value)]
    before = sorted(tmp_path.iterdir())
    assert main(["embed", *extra, *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["parquet", "zarr"])
def test_a_missing_package_is_told_at_once(
    kind: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "nothing is read").mkdir()
    with pytest.raises(UserError, match=rf"pip install 'dinoscope\[{kind}\]'"):
        run(model, tmp_path / "nothing is read", tmp_path / f"f.{kind}")


def test_a_format_for_a_name_without_an_ending(model: Path, picture_folder: MakeFolder, tmp_path: Path) -> None:
    assert run(model, picture_folder(1), tmp_path / "features", "--format", "npz") == 0
    assert np.load(tmp_path / "features")["patches"].shape == (1, 4, 5, 96)


def test_no_readable_image_writes_nothing(kind: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 images can be read"):
        run(model, tmp_path / "data", tmp_path / "out" / f"f.{kind}")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "not finite"), (1e6, "float16")])
def test_features_that_cannot_be_stored(value: float, message: str, picture_folder: MakeFolder, tmp_path: Path) -> None:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", SIZE))
    with torch.no_grad():
        backbone.net.norm.weight.fill_(value)  # pyright: ignore
    found = find_images(picture_folder(1))
    with pytest.raises(UserError, match=message):
        patch_features.write_patches(
            tmp_path / "f.npz", wrap(backbone), found, ExtractConfig(workers=0), PatchConfig(float16=True), ".npz"
        )
    assert not (tmp_path / "f.npz").exists()


def test_a_network_without_patches(picture_folder: MakeFolder, tmp_path: Path) -> None:
    model = wrap(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), image_size=SIZE)
    with pytest.raises(UserError, match="one feature for an image"):
        patch_features.write_patches(
            tmp_path / "f.npz", model, find_images(picture_folder(1)), ExtractConfig(), PatchConfig(), ".npz"
        )


def test_load_patches_refuses_what_it_does_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", features=np.zeros(3))
    (tmp_path / "table.parquet").touch()
    (tmp_path / "text.npz").write_text("text")
    for name, message in [("other.npz", "does not hold"), ("table.parquet", "pandas"), ("text.npz", "does not hold"),
                          ("none.npz", "no file")]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            load_patches(tmp_path / name)
