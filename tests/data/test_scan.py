"""Looking over a folder: the counts are right however they were made, and damage is reported."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoscope.data.finding import find_images
from dinoscope.data.grey_range import ValueRange
from dinoscope.data.images import Header, UnreadableImage
from dinoscope.data.scan import Extent, Unreadable, check_readable, scan
from dinoscope.data.sources import ImageFolder
from dinoscope.errors import UserError


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def mixed(tmp_path: Path) -> ImageFolder:
    """Two classes with one image of every kind, and two files that are none."""
    root = tmp_path / "mixed"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    picture(40, 20).save(root / "a/1.jpg")
    picture(10, 30, "L").save(root / "a/2_grey.png")
    picture(12, 12, "RGBA").save(root / "a/3_alpha.png")
    picture(12, 12, "I;16").save(root / "a/4_deep.png")
    picture(16, 16, "CMYK").save(root / "b/5_cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(50, 25).save(root / "b/6_turned.jpg", exif=exif)
    picture(20, 20).save(root / "b/7_moving.gif", save_all=True, append_images=[picture(20, 20, "L")])
    picture(20, 20).save(root / "b/8_png_in_truth.jpg", "PNG")
    (root / "b/9_text.jpg").write_text("not a picture")
    whole = (root / "a/1.jpg").read_bytes()
    (root / "a/x_cut.jpg").write_bytes(whole[:-100])
    return find_images(root)


def test_the_report_counts_what_is_there(mixed: ImageFolder) -> None:
    report = scan(mixed, workers=1)
    assert report.root == str(mixed.root)
    assert report.complete
    assert report.images == 10
    assert report.bytes == sum(path.stat().st_size for path in mixed.root.rglob("*.*"))
    assert dict(report.formats) == {"PNG": 4, "JPEG": 3, "GIF": 1}
    assert next(iter(report.formats)) == "PNG"
    assert dict(report.classes) == {"a": 4, "b": 4}
    assert report.widths == Extent(10, 16, 40)  # 10 12 12 16 | 20 20 25 40
    assert report.heights == Extent(12, 20, 50)  # 12 12 16 20 | 20 20 30 50
    assert report.aspect_ratios == (10 / 30, 40 / 20)
    assert (report.grey, report.alpha, report.over_8_bit) == (2, 1, 1)
    assert (report.cmyk, report.rotated, report.animated) == (1, 1, 1)
    assert [fault.path for fault in report.unreadable] == ["a/x_cut.jpg", "b/9_text.jpg"]
    assert "truncated" in report.unreadable[0].reason
    assert "not an image" in report.unreadable[1].reason


def test_headers_alone_miss_damaged_pixels_and_say_so(mixed: ImageFolder) -> None:
    report = scan(mixed, full=False)
    assert not report.complete
    assert [fault.path for fault in report.unreadable] == ["b/9_text.jpg"]


def test_headers_alone_decode_nothing(mixed: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFolder, "read", lambda _, index: pytest.fail(f"{index} was decoded"))
    scan(mixed, full=False)


def test_the_report_is_the_same_for_any_number_of_workers(mixed: ImageFolder) -> None:
    many = mixed.subset([i % len(mixed) for i in range(70)])
    reports = [scan(many, workers=workers) for workers in (1, 2, 7, 0)]
    assert all(report == reports[0] for report in reports)
    assert reports[0].images == 70


def test_progress_ends_at_the_total(mixed: ImageFolder) -> None:
    calls: list[tuple[int, int]] = []
    scan(mixed.subset([0] * 100), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (100, 100)
    assert calls == sorted(calls)
    assert len(calls) > 1


def test_an_unlabelled_folder_has_no_classes(mixed: ImageFolder) -> None:
    assert scan(find_images(mixed.root, labelled=False)).classes == {}


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    report = scan(find_images(tmp_path))
    assert (report.widths, report.heights, report.aspect_ratios) == (None, None, None)
    assert report.unreadable == (Unreadable("a.jpg", "empty file"),)


def test_a_file_that_vanishes_is_unreadable(mixed: ImageFolder) -> None:
    mixed.path(0).unlink()
    assert scan(mixed).unreadable[0] == Unreadable("a/1.jpg", "cannot be opened: No such file or directory")


def test_the_report_is_json(mixed: ImageFolder) -> None:
    content = json.loads(json.dumps(dataclasses.asdict(scan(mixed))))
    assert content["root"] == str(mixed.root)
    assert content["widths"] == {"minimum": 10, "median": 16, "maximum": 40}
    assert content["unreadable"][1]["path"] == "b/9_text.jpg"


def test_a_negative_number_of_workers_is_refused(mixed: ImageFolder) -> None:
    with pytest.raises(UserError, match="workers is -1"):
        scan(mixed, workers=-1)


# The cache


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose headers are read from now on."""
    names: list[str] = []
    real = ImageFolder.header

    def header(folder: ImageFolder, index: int) -> Header:
        names.append(folder.path(index).name)
        return real(folder, index)

    monkeypatch.setattr(ImageFolder, "header", header)
    return names


def test_readable_files_are_remembered(mixed: ImageFolder, tmp_path: Path, looked_at: list[str]) -> None:
    first = scan(mixed, cache=tmp_path / "cache")
    assert len(looked_at) == 10
    looked_at.clear()
    assert scan(mixed, cache=tmp_path / "cache") == first
    assert sorted(looked_at) == ["9_text.jpg", "x_cut.jpg"], "what was unreadable may have been mended"


def test_a_changed_file_is_looked_at_again(mixed: ImageFolder, tmp_path: Path, looked_at: list[str]) -> None:
    picture(40, 20).save(mixed.path(0), "BMP")
    scan(mixed, cache=tmp_path / "cache")
    looked_at.clear()
    size = mixed.path(0).stat().st_size
    picture(20, 40).save(mixed.path(0), "BMP")
    assert mixed.path(0).stat().st_size == size, "only the time tells"
    os.utime(mixed.path(0), ns=(1, 1))
    report = scan(mixed, cache=tmp_path / "cache")
    assert "1.jpg" in looked_at
    assert report.heights == Extent(12, 20, 50)
    assert report.widths == Extent(10, 16, 25)


def test_full_scans_do_not_take_headers_for_pixels(mixed: ImageFolder, tmp_path: Path) -> None:
    scan(mixed, full=False, cache=tmp_path)
    assert len(scan(mixed, full=True, cache=tmp_path).unreadable) == 2


def test_an_interrupted_scan_is_gone_on_with(mixed: ImageFolder, tmp_path: Path, looked_at: list[str]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    copies = tmp_path / "copies"
    copies.mkdir()
    for i in range(100):
        (copies / f"{i:03}.jpg").write_bytes(mixed.path(0).read_bytes())
    folder = find_images(copies)
    with pytest.raises(KeyboardInterrupt):
        scan(folder, workers=1, cache=tmp_path / "cache", progress=interrupt)
    looked_at.clear()
    scan(folder, workers=1, cache=tmp_path / "cache")
    assert len(looked_at) == 100 - 32


def rewrite(cache: Path, change: Callable[[dict[str, object]], object]) -> None:
    (file,) = cache.glob("*.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content)))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [],
        lambda content: {"files": content["files"]},
        lambda content: content | {"readers": "of another version"},
        lambda content: content | {"files": []},
        lambda content: content | {"files": {path: row[:-1] for path, row in content["files"].items()}},
        lambda content: (
            content | {"files": {path: [*row[:3], "9", *row[4:]] for path, row in content["files"].items()}}
        ),
        lambda content: content | {"files": {path: [*row[:3], 0, *row[4:]] for path, row in content["files"].items()}},
    ],
)
def test_a_damaged_or_outdated_cache_is_not_used(
    mixed: ImageFolder, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    expected = scan(mixed, cache=tmp_path / "cache")
    rewrite(tmp_path / "cache", change)
    assert scan(mixed, cache=tmp_path / "cache") == expected


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 5000])
def test_a_cache_that_is_not_json_is_not_used(mixed: ImageFolder, tmp_path: Path, content: bytes) -> None:
    expected = scan(mixed, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(content)
    assert scan(mixed, cache=tmp_path / "cache") == expected
    assert json.loads(file.read_text())["files"], "and written anew"


def test_a_cache_that_cannot_be_written_stops_nothing(
    mixed: ImageFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert scan(mixed, cache=tmp_path / "file" / "cache").images == 10
    assert "could not be written" in caplog.text


def test_a_failed_write_leaves_the_old_cache_whole(
    mixed: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    scan(mixed, cache=cache)
    (file,) = cache.iterdir()
    before = file.read_bytes()
    picture(9, 9).save(mixed.path(0))

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", disk_full)
    scan(mixed, cache=cache)
    assert file.read_bytes() == before
    assert list(cache.iterdir()) == [file], "nothing half-written stays behind"


# What is too much


def faults(count: int) -> tuple[Unreadable, ...]:
    return tuple(Unreadable(f"{i}.jpg", f"reason {i}") for i in range(count))


def test_up_to_five_percent_unreadable_is_accepted() -> None:
    check_readable(Path("data"), (), 0)
    check_readable(Path("data"), faults(0), 100)
    check_readable(Path("data"), faults(5), 100)


def test_more_is_refused_with_number_examples_and_advice() -> None:
    with pytest.raises(UserError) as error:
        check_readable(Path("my data"), faults(6), 100)
    message = str(error.value)
    assert "6 of 100" in message
    assert "5%" in message
    for i in range(3):
        assert f"{i}.jpg (reason {i})" in message
    assert "3.jpg" not in message
    assert "dinoscope scan 'my data' --all" in message
    assert "--max-unreadable 0.06" in message
    assert "\n" not in message


@pytest.mark.parametrize(("count", "images"), [(29, 100), (7, 100), (1, 3), (30, 300), (57, 100)])
def test_the_limit_that_is_advised_is_enough(count: int, images: int) -> None:
    with pytest.raises(UserError) as error:
        check_readable(Path("data"), faults(count), images)
    check_readable(Path("data"), faults(count), images, limit=float(str(error.value).rsplit(" ", 1)[1]))


def test_the_limit_can_be_set() -> None:
    check_readable(Path("data"), faults(50), 100, limit=0.5)
    with pytest.raises(UserError):
        check_readable(Path("data"), faults(1), 100, limit=0)


def test_unreadable_is_the_only_expected_exception(mixed: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours must not be counted as one of the file's."""

    def broken(folder: ImageFolder, index: int) -> None:
        raise AssertionError("our fault")

    monkeypatch.setattr(ImageFolder, "read", broken)
    with pytest.raises(AssertionError, match="our fault"):
        scan(mixed)
    monkeypatch.setattr(ImageFolder, "read", lambda *_: (_ for _ in ()).throw(UnreadableImage("the file's")))
    assert len(scan(mixed).unreadable) == 10


def test_the_values_of_more_than_eight_bits_are_looked_at(tmp_path: Path) -> None:
    for number, values in enumerate(([0, 100], [7, 4000])):
        Image.fromarray(np.array([values], np.uint16)).save(tmp_path / f"{number}.png")
    picture(8, 8).save(tmp_path / "eight.png")
    folder, cache = find_images(tmp_path), tmp_path / "cache"
    for _ in range(2):  # the second time from the cache
        assert scan(folder, cache=cache).values == ValueRange(0, 4000, True)
    # Headers do not tell the values: then it is what the file could hold.
    assert scan(folder, full=False).values == ValueRange(0, 65535, True)
    assert scan(folder.subset([2])).values is None
    Image.fromarray(np.array([[-5.0, 5.0]], np.float32)).save(tmp_path / "float.tif")
    assert scan(find_images(tmp_path), full=False).values is None
    assert scan(find_images(tmp_path)).values == ValueRange(-5, 4000, False)
