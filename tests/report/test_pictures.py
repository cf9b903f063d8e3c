"""Pictures of attention: what is coloured, what is dimmed, and that nothing is cut off."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image

from dinoscope.errors import UserError
from dinoscope.files import write_all
from dinoscope.pictures import (
    MARGIN,
    OUTLINE,
    Page,
    Row,
    Tile,
    fitted,
    layout,
    mask_overlay,
    overlay,
    page,
    page_files,
    page_width,
    scale_of,
    write_png,
)
from dinoscope.report.pages import attention_panel

GREY = np.full((40, 60, 3), 120, np.uint8)


def is_white(pixels: np.ndarray) -> bool:
    return bool((pixels == 255).all())


def test_even_attention_colours_nothing() -> None:
    assert np.array_equal(overlay(GREY, np.full((4, 6), 0.01, np.float32)), GREY)
    assert np.array_equal(overlay(GREY, np.zeros((4, 6), np.float32)), GREY)


def test_only_patches_above_the_mean_are_coloured() -> None:
    values = np.full((4, 6), 0.01, np.float32)
    values[1, 4] = 0.5
    drawn = overlay(GREY, values)
    assert np.array_equal(drawn[:, :30], GREY[:, :30])
    red, _, blue = drawn[15, 45].astype(int)
    assert red > 180
    assert red - blue > 60


def test_faint_preference_is_drawn_fainter_than_strong() -> None:
    faint, strong = np.full((4, 6), 1.0, np.float32), np.full((4, 6), 1.0, np.float32)
    faint[1, 4], strong[1, 4] = 1.2, 5.0
    change = [np.abs(overlay(GREY, each)[15, 45].astype(int) - 120).max() for each in (faint, strong)]
    assert 0 < change[0] < change[1] / 2


def test_scale_of_the_values_does_not_matter() -> None:
    values = np.random.default_rng(0).random((4, 6), dtype=np.float32)
    assert np.abs(overlay(GREY, values).astype(int) - overlay(GREY, 1e-3 * values)).max() <= 1


def test_a_mask_keeps_the_inside_dims_the_outside_and_is_outlined() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 1:3] = True  # pixels 10 to 29, both ways
    drawn = mask_overlay(GREY, mask)
    assert np.array_equal(drawn[12:28, 12:28], GREY[12:28, 12:28])
    assert (drawn[:8] == 36).all()
    assert tuple(drawn[10, 20]) == OUTLINE
    assert np.array_equal(mask_overlay(GREY, np.zeros((4, 6), bool)), np.full_like(GREY, 36))
    assert (GREY == 120).all()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(30, 60, (50, 100)), (400, 200, (150, 75)), (1000, 2000, (50, 100)), (900, 1, (150, 1))],
)
def test_fitted(height: int, width: int, expected: tuple[int, int]) -> None:
    assert fitted(np.zeros((height, width, 3), np.uint8), 100).shape == (*expected, 3)


@pytest.mark.parametrize(("heads", "size"), [(1, (40, 60)), (2, (300, 100)), (4, (30, 400)), (12, (40, 60))])
def test_a_panel_is_never_cut_off(heads: int, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 120, np.uint8)
    name = "a_very_long_name_" * 20 + "$1.jpg"
    panel = attention_panel(image, torch.rand(heads, 4, 6), 0.6, name, "run: vit_tiny_patch16_224").pixels()
    assert panel.dtype == np.uint8
    edge = MARGIN // 4
    assert all(map(is_white, (panel[:edge], panel[-edge:], panel[:, : MARGIN - 2], panel[:, 2 - MARGIN :])))
    assert not is_white(panel[:, MARGIN : MARGIN + 20])


def test_a_panel_refuses_a_mass_out_of_range() -> None:
    with pytest.raises(UserError, match="not 60"):
        attention_panel(GREY, torch.rand(3, 4, 6), 60)


def test_pictures_are_pasted_unchanged() -> None:
    """Under its line of text, a tile as wide as its column lies in the page pixel by pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    row = Row([Tile(noise, "left"), Tile(noise, "right")], 80)
    sheet = page([row, row], min_width=0)
    assert sheet.shape[1] == page_width(2, 80)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, noise.shape)[:, :, 0]
    corners = np.argwhere((windows[:, :, 0, 0] == noise[0, 0]).all(axis=-1))
    assert sum(np.array_equal(windows[row, column], noise) for row, column in corners) == 4


def test_a_smaller_picture_lies_in_the_middle_of_its_place() -> None:
    small, large = np.zeros((10, 20, 3), np.uint8), np.zeros((30, 40, 3), np.uint8)
    drawn = page([Row([Tile(small), Tile(large)], tile_width=40)], min_width=0)
    top = MARGIN // 2
    rows, columns = np.nonzero((drawn == 0).all(axis=2)[:, : MARGIN + 40])
    assert (rows.min(), rows.max()) == (top + 10, top + 19)
    assert (columns.min(), columns.max()) == (MARGIN + 10, MARGIN + 29)


def test_png_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_png(path, GREY)
    assert np.array_equal(cv2.imread(str(path)), GREY)
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_for_print_is_the_page_of_the_screen_with_more_pixels() -> None:
    """At 300 dots an inch a page is 7.2 inches wide; the image shows what the screen has no pixels for."""
    stripes = np.tile(np.array([[[0], [255]]], np.uint8), (600, 300, 3))  # each a pixel wide
    maps = torch.rand(3, 4, 6)
    screen = attention_panel(stripes, maps, 0.6, "name", "note")
    printed = attention_panel(stripes, maps, 0.6, "name", "note", dpi=300)
    small, large = screen.pixels(), printed.pixels()
    assert (small.shape[1], large.shape[1]) == (1198, 2160)
    assert large.shape[0] / small.shape[0] == pytest.approx(2160 / 1198, abs=0.01)
    headings = [page[: round(0.05 * page.shape[1]), : page.shape[1] // 2].min(axis=2) < 128 for page in (small, large)]
    sizes = [np.ptp(np.nonzero(heading), axis=1) / heading.shape[1] for heading in headings]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05, abs=2 / 1198)  # height and width of the letters
    top, left = (round(160 / 1198 * 2160), round((MARGIN + 60) / 1198 * 2160))
    assert np.ptp(large[top, left : left + 100, 0].astype(int)) > 200
    assert np.ptp(small[160, MARGIN + 60 : MARGIN + 120, 0].astype(int)) < 150


def test_files_of_a_page_for_print(tmp_path: Path) -> None:
    def sheet(dpi: int | None) -> list[Path]:
        width = round(80 * scale_of(dpi))
        row = Row([Tile(np.full((100, width, 3), 90, np.uint8), "letters")], 80)
        return write_all(tmp_path, page_files("x", layout([row], "título", dpi=dpi)))

    for dpi in (300, 600):
        assert [file.name for file in sheet(dpi)] == ["x.png", "x.pdf"]
        with Image.open(tmp_path / "x.png") as image:
            assert image.info["dpi"] == pytest.approx((dpi, dpi), abs=0.02)
            assert image.width / dpi == pytest.approx(7.2, abs=0.01)
        pdf = (tmp_path / "x.pdf").read_bytes().replace(b"\n", b" ")
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
        assert box is not None
        assert float(box[1]) / 72 == pytest.approx(7.2, abs=0.01)
        assert b"/FontFile2" in pdf  # letters, with their font
        assert b"/Width %d " % round(80 * scale_of(dpi)) in pdf  # the picture, with all its pixels
    assert [file.name for file in sheet(None)] == ["x.png"]
    assert not (tmp_path / "x.pdf").exists()  # no PDF of what was before
    assert "dpi" not in Image.open(tmp_path / "x.png").info


@pytest.mark.parametrize("dpi", [0, 71, 601])
def test_dots_an_inch_out_of_range_are_refused(dpi: int) -> None:
    with pytest.raises(UserError, match=f"72 to 600, not {dpi}"):
        layout([Row([Tile(GREY)], 60)], dpi=dpi)


def test_a_note_alone_is_broken_into_lines_and_nothing_of_it_is_lost() -> None:
    words = [f"word{number}" for number in range(60)]
    empty = Page(300, 100)
    lines = empty.broken(" ".join(words), 13, 236)
    assert " ".join(lines).split() == words
    assert all(empty.length(line, 13) <= 236 for line in lines)
    assert all(
        empty.length(f"{line} {following.split()[0]}", 13) > 236 for line, following in itertools.pairwise(lines)
    )
    (longer,) = empty.broken("w" * 100, 13, 236)  # no place to break it
    assert empty.length(longer, 13) <= 236
    row = Row([Tile(np.zeros((90, 236, 3), np.uint8))], 236)
    short, long = layout([row], note="short", min_width=0), layout([row], note=" ".join(words), min_width=0)
    assert long.height - short.height == pytest.approx(20 * (len(lines) - 1))
    assert [text.get_text() for text in long.figure.texts] == lines
    black = (long.pixels() == 0).all(axis=2)
    assert black.sum() == 90 * 236  # the texts are grey, above the picture


def test_no_figure_stays_in_pyplot() -> None:
    """There it would be kept for good."""
    page([Row([Tile(GREY, "title")], 240)])
    assert pyplot.get_fignums() == []
