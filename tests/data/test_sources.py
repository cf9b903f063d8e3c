"""Finding images: which files, in which order, with which classes, and what is said where there are none."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from dinoscope.data.finding import find_images, find_split, resolve_split
from dinoscope.data.sources import ImageFolder, as_stored, counted, image_fraction, images_within, label_fraction
from dinoscope.errors import UserError


def touch(root: Path, *names: str) -> Path:
    """Make files (contents do not matter here) and return their root."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return root


def test_images_at_any_depth_in_byte_order(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.jpg",
        "a/z.PNG",
        "a/é.tiff",
        "a/b/c.webp",
        "B.gif",
        "a.bmp",
        "x.tif",
        "y.ppm",
        "z.pgm",
        "w.JPeG",
    )
    folder = find_images(tmp_path)
    assert folder.paths == (
        "B.gif", "a.bmp", "a/b/c.webp", "a/z.PNG", "a/é.tiff", "b.jpg", "w.JPeG", "x.tif", "y.ppm", "z.pgm"
    )  # fmt: skip
    assert folder.labels is None
    assert folder.classes == ()
    assert len(folder) == 10
    assert folder.path(2) == tmp_path / "a/b/c.webp"


def test_other_files_and_debris_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "good.jpg", ".hidden.jpg", ".cache/x.jpg", "__MACOSX/._good.jpg", "__MACOSX/good.jpg")
    touch(tmp_path, "Thumbs.db", "notes.txt", "jpg", "archive.jpg.zip", "sub/.DS_Store")
    assert find_images(tmp_path).paths == ("good.jpg",)


def test_a_hidden_root_is_read(tmp_path: Path) -> None:
    assert find_images(touch(tmp_path / ".cache", "a.jpg")).paths == ("a.jpg",)


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    assert find_images(touch(tmp_path, "x.jpg/y.jpg")).paths == ("x.jpg/y.jpg",)


def test_first_level_folders_are_classes(tmp_path: Path) -> None:
    touch(tmp_path, "dog/1.jpg", "cat/deep/er/2.jpg", "cat/1.jpg", "empty/readme.txt")
    folder = find_images(tmp_path)
    assert folder.classes == ("cat", "dog")
    assert folder.paths == ("cat/1.jpg", "cat/deep/er/2.jpg", "dog/1.jpg")
    assert folder.labels == (0, 0, 1)


@pytest.mark.parametrize(
    "names",
    [
        ("cat/1.jpg", "dog/1.jpg", "stray.jpg"),
        ("only/1.jpg", "only/2.jpg"),
        ("train/cat/1.jpg", "val/cat/1.jpg"),
        ("Train/1.jpg", "Test/1.jpg"),
    ],
)
def test_what_is_not_labelled(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = find_images(touch(tmp_path, *names))
    assert folder.labels is None
    assert folder.classes == ()


def test_labelled_can_be_insisted_on_and_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/2.jpg")
    assert find_images(tmp_path, labelled=True).labels == (0, 0)
    touch(tmp_path, "dog/1.jpg")
    assert find_images(tmp_path, labelled=False).labels is None
    touch(tmp_path, "stray.jpg")
    with pytest.raises(UserError, match=r"stray\.jpg.*outside of any class folder"):
        find_images(tmp_path, labelled=True)


def test_whoever_waits_hears_how_many_folders_are_listed(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/deep/er/2.png", "b/3.png", "c/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    heard = list[tuple[int, int]]()
    assert len(find_images(tmp_path, progress=lambda *told: heard.append(told))) == 4
    assert heard == [(0, 3), (1, 3), (2, 3)]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "a/1.jpg")
    elsewhere = touch(tmp_path / "elsewhere", "2.jpg")
    (root / "linked").symlink_to(elsewhere)
    (root / "a/up").symlink_to(root)
    (root / "a/self").symlink_to(root / "a/self")
    assert find_images(root).paths == ("a/1.jpg", "linked/2.jpg")


def test_a_dangling_link_is_listed_and_a_pipe_is_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "unmounted/gone.jpg")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "round.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    folder = find_images(tmp_path)
    assert folder.paths == ("a.jpg", "gone.jpg", "round.jpg")
    assert folder.fingerprint()


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    raw = os.fsdecode(b"caf\xe9.jpg")
    folder = find_images(touch(tmp_path, "z.jpg", raw))
    assert folder.paths == (raw, "z.jpg")
    assert folder.path(0).exists()
    assert folder.fingerprint()


def test_mistakes_are_named(tmp_path: Path) -> None:
    file = touch(tmp_path, "archive.zip") / "archive.zip"
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"archive\.zip: neither a folder nor a container of images.*zip"):
        find_images(file)
    with pytest.raises(UserError, match=r"no images.*\.jpg.*1 \.md"):
        find_images(touch(tmp_path / "texts", "a.md"))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "open/1.jpg", "locked/2.jpg")
    scandir = os.scandir

    def refuse(path: Path) -> object:  # as root, permissions stop nobody
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"locked: cannot be listed \(Permission denied\)"):
        find_images(tmp_path)


def test_the_fingerprint_changes_with_the_data_and_not_with_the_place(tmp_path: Path) -> None:
    names = ("a/1.jpg", "b/2.jpg")
    first = find_images(touch(tmp_path / "one", *names))
    seen = {first.fingerprint()}
    assert find_images(touch(tmp_path / "two", *names)).fingerprint() in seen

    def differs() -> bool:
        fingerprint = find_images(first.root).fingerprint()
        new = fingerprint not in seen
        seen.add(fingerprint)
        return new

    touch(first.root, "b/3.jpg")
    assert differs()
    (first.root / "b/3.jpg").write_bytes(b"longer than before")
    assert differs()
    (first.root / "b/3.jpg").rename(first.root / "a/3.jpg")
    assert differs()
    assert first.subset([1, 0]).fingerprint() != first.fingerprint()


def test_a_file_gone_since_changes_the_fingerprint(tmp_path: Path) -> None:
    folder = find_images(touch(tmp_path, "a.jpg", "b.jpg"))
    before = folder.fingerprint()
    (tmp_path / "b.jpg").unlink()
    assert folder.fingerprint() != before


def test_subset_keeps_order_and_classes(tmp_path: Path) -> None:
    folder = find_images(touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "eel/1.jpg"))
    subset = folder.subset([2, 0])
    assert subset == ImageFolder(tmp_path, ("eel/1.jpg", "cat/1.jpg"), (2, 0), ("cat", "dog", "eel"))


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test", "Test", "testing"])
def test_splits_by_name(tmp_path: Path, val: str) -> None:
    touch(tmp_path, "train/a/1.jpg", f"{val}/a/1.jpg")
    assert resolve_split(tmp_path, "train") == tmp_path / "train"
    assert resolve_split(tmp_path, "val") == tmp_path / val


def test_val_is_preferred_to_test(tmp_path: Path) -> None:
    touch(tmp_path, "training/1.jpg", "test/1.jpg", "validation/1.jpg", "val/1.jpg")
    assert resolve_split(tmp_path, "val") == tmp_path / "val"
    assert resolve_split(tmp_path, "train") == tmp_path / "training"


def test_an_archive_unpacked_into_a_folder_is_looked_through(tmp_path: Path) -> None:
    touch(tmp_path, "cifar10/train/a/1.jpg", "cifar10/val/a/1.jpg", "__MACOSX/x.jpg", ".git/x", "README.txt")
    assert resolve_split(tmp_path, "train") == tmp_path / "cifar10/train"
    assert resolve_split(tmp_path, "val") == tmp_path / "cifar10/val"


@pytest.mark.parametrize("above", ["", "cifar10/"])
def test_classes_of_both_splits_together(tmp_path: Path, above: str) -> None:
    names = ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/eel/1.jpg")
    folder = find_images(touch(tmp_path, *(above + name for name in names)), splits=True)
    assert (folder.labels, folder.classes) == ((0, 1, 0, 2), ("cat", "dog", "eel"))
    assert folder.paths == tuple(above + name for name in names)


def test_without_classes_or_splits_nothing_is_added(tmp_path: Path) -> None:
    for name, files in {
        "flat": ("train/1.jpg", "val/cat/1.jpg"),
        "one": ("train/cat/1.jpg", "val/cat/1.jpg"),
        "classes": ("cat/1.jpg", "dog/1.jpg"),
        "stray": ("1.jpg", "train/cat/1.jpg", "val/dog/1.jpg"),
    }.items():
        root = touch(tmp_path / name, *files)
        assert find_images(root, splits=True) == find_images(root)


def test_without_splits(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    assert find_split(tmp_path, "train") is None
    assert resolve_split(tmp_path, "train") == tmp_path
    with pytest.raises(UserError, match="no validation folder found"):
        resolve_split(tmp_path, "val")
    with pytest.raises(UserError, match="no such folder"):
        resolve_split(tmp_path / "nowhere", "train")


def balanced(tmp_path: Path) -> ImageFolder:
    names = [f"{kind}/{i}.jpg" for kind, count in (("a", 40), ("b", 20), ("c", 2)) for i in range(count)]
    return find_images(touch(tmp_path, *names))


def test_a_fraction_of_the_labels_is_the_same_share_of_every_class(tmp_path: Path) -> None:
    folder = balanced(tmp_path)
    part = label_fraction(folder, 0.1, seed=0)
    assert part.labels == (0,) * 4 + (1,) * 2 + (2,)
    assert part.paths == tuple(sorted(part.paths))
    assert set(part.paths) <= set(folder.paths)
    assert part.classes == folder.classes
    assert label_fraction(folder, 1, seed=0) == folder


def test_a_fraction_depends_on_the_seed_alone_and_grows_by_inclusion(tmp_path: Path) -> None:
    folder = balanced(tmp_path)
    assert label_fraction(folder, 0.5, seed=1) == label_fraction(folder, 0.5, seed=1)
    assert label_fraction(folder, 0.5, seed=1) != label_fraction(folder, 0.5, seed=2)
    small, large = label_fraction(folder, 0.2, seed=1), label_fraction(folder, 0.5, seed=1)
    assert set(small.paths) < set(large.paths)


def test_a_fraction_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    folder = balanced(tmp_path)
    for fraction in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            label_fraction(folder, fraction, seed=0)
    with pytest.raises(UserError, match="no classes"):
        label_fraction(find_images(tmp_path, labelled=False), 0.1, seed=0)


def test_a_fraction_of_the_images_looks_at_no_label_and_is_always_the_same(tmp_path: Path) -> None:
    folder = balanced(tmp_path)
    part = image_fraction(folder, 0.5)
    assert len(part) == 31
    assert part.paths == tuple(sorted(part.paths))
    assert part.classes == folder.classes
    assert image_fraction(find_images(tmp_path, labelled=False), 0.5).paths == part.paths
    assert image_fraction(folder, 1) == folder
    assert len(image_fraction(folder, 1e-6)) == 1


def test_smaller_fractions_of_the_images_lie_in_larger_ones_and_do_not_follow_the_order(tmp_path: Path) -> None:
    folder = balanced(tmp_path)
    parts = [set(image_fraction(folder, fraction).paths) for fraction in (0.1, 0.25, 0.5, 0.9)]
    assert all(small < large for small, large in pairwise(parts))
    assert parts[2] not in (set(folder.paths[:31]), set(folder.paths[31:]), set(folder.paths[::2]))


def test_whether_an_image_is_in_a_fraction_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    first, second = balanced(tmp_path / "first"), balanced(tmp_path / "second")
    assert image_fraction(first, 0.3).paths == image_fraction(second, 0.3).paths


def test_a_fraction_of_the_images_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    folder = balanced(tmp_path)
    for fraction in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="--fraction must be above 0 and at most 1"):
            image_fraction(folder, fraction)


# Names: endings, Unicode forms, numbers


def test_every_ending_of_jpeg_is_taken_and_others_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.jfif", "b.JPE", "c.jpg", "1.PSD", "sub/2.psd", "3.svg", "IM0001", "1.2.840.7", "x.txt.gz")
    touch(tmp_path, ".hidden.psd")
    folder = find_images(tmp_path)
    assert folder.paths == ("a.jfif", "b.JPE", "c.jpg")
    assert folder.passed_over == ((".psd", 2), ("without an ending", 2), (".gz", 1), (".svg", 1))
    assert folder.subset([0]).passed_over == folder.passed_over
    for path in folder.paths:
        (tmp_path / path).unlink()
    with pytest.raises(UserError, match=r"no images.*passed over: 2 \.psd, 2 without an ending, 1 \.gz"):
        find_images(tmp_path)


def test_counts_in_words_are_short() -> None:
    assert counted(()) == ""
    assert counted([(".a", 1200), (".b", 2), (".c", 1), (".d", 1)], limit=2) == "1,200 .a, 2 .b, 2 others"


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path, f"train/{NFC}/1.jpg", "train/tea/1.jpg", f"val/{NFD}/1.jpg", f"val/{NFC}/2.jpg", "val/tea/1.jpg")
    train, val = find_images(tmp_path / "train"), find_images(tmp_path / "val")
    assert train.classes == val.classes == (NFC, "tea")
    assert val.paths == (f"{NFD}/1.jpg", f"{NFC}/2.jpg", "tea/1.jpg"), "paths are those on the disk"
    assert val.labels == (0, 0, 1)
    assert find_images(tmp_path, splits=True).classes == (NFC, "tea")


def test_a_name_is_found_in_the_form_that_the_disk_has(tmp_path: Path) -> None:
    touch(tmp_path, f"{NFD}/{NFC}.png")
    assert as_stored(tmp_path, f"{NFC}/{NFD}.png") == tmp_path / NFD / f"{NFC}.png"
    assert as_stored(tmp_path, f"{NFC}/none.png") == tmp_path / NFD / "none.png"
    assert as_stored(tmp_path, "none/1.png") == tmp_path / "none" / "1.png"


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.jpg" for number in range(1, 13)), "notes.txt", ".13.jpg", "sub/0.jpg")
    assert [path.stem for path in images_within(tmp_path)] == [str(number) for number in range(1, 13)]
