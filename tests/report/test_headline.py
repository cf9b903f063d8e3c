"""What the report begins with: who is ahead, how sure that is, and what may not be ranked."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dinoscope.evaluation.compare import (
    Comparison,
    Entry,
    baseline_lines,
    best,
    best_first,
    bold_line,
    compare,
    display_table,
    interval,
    lead,
    ranked,
)
from dinoscope.evaluation.statistics import share_metric
from dinoscope.report.page import Figure
from dinoscope.report.runs import told_apart
from dinoscope.report.sections.summary import headlines
from dinoscope.types import Result


def entry(method: str, linear: float, images: int = 1000, seed: int = 0) -> Entry:
    protocol = {"protocol": "fast", "epochs": 1, "train_images": 9, "train": "a", "label_fraction": 1, "val": "b"}
    protocol |= {"val_images": images, "classes": 4, "image_size": 32, "precision": "fp32"}
    found = Result("linear", protocol, (share_metric("linear_top1", linear, images),))
    return Entry(method, "vit_micro_conv8", 0.3, f"{method}{seed}", seed, {"method": method}, {"linear": found})


def of(*entries: Entry) -> Comparison:
    return compare(entries)


def test_the_contest_is_among_those_without_labels_and_says_how_sure_it_is():
    rows = of(entry("dino", 50.0), entry("supervised", 90.0), entry("simclr", 70.0), entry("byol", 25.0))
    (line, chance) = headlines([], rows)
    assert line == (
        "Linear probe on 1,000 images of b at 32 px, without labels: SimCLR is best with 70.0 % [67.1, 72.8], "
        "then DINO with 50.0 % [46.9, 53.1]; "
        "last is BYOL with 25.0 % [22.4, 27.8]. With labels: Supervised 90.0 %. Guessing: 25.0 %."
    )
    assert chance.startswith("One run of each")
    assert [row.method for row in best(rows, "linear")] == ["SimCLR"]
    assert [row.method for row in best_first(rows).rows] == ["Supervised", "SimCLR", "DINO", "BYOL"]


def test_overlapping_intervals_and_different_conditions_settle_nothing():
    assert "do not settle" in headlines([], of(entry("dino", 50.0), entry("simclr", 51.0)))[0]
    unlike = of(entry("dino", 50.0), entry("simclr", 60.0, images=500))
    assert "not ranked" in headlines([], unlike)[0]
    assert ranked(unlike, "linear") == ()
    assert best_first(unlike).rows == unlike.rows


def test_seeds_show_their_deviation_and_no_interval():
    rows = of(entry("dino", 50.0), entry("dino", 54.0, seed=1), entry("simclr", 70.0))
    assert "DINO with 52.0 ± 2.8 %" in headlines([], rows)[0]
    # of two seeds next to nothing is known: 18 ± 12.706 x 2.828 x sqrt(1 + 1 / 2)
    assert "[-26.0, 62.0] (one run against 2 seeds): the interval contains 0" in headlines([], rows)[0]
    several = next(row for row in rows.rows if row.method == "DINO")
    assert interval(several, "linear") is None


def test_bold_is_said_to_be_what_it_is():
    """Of one model with labels and one without, the best of both; the interval at 0 % reaches up alone."""
    pair = of(entry("dino", 50.0), entry("supervised", 90.0))
    assert [row.method for row in best(pair, "linear")] == ["Supervised"]
    assert bold_line(pair) == "Bold: the best"
    three = of(entry("dino", 50.0), entry("simclr", 70.0), entry("supervised", 90.0))
    assert bold_line(three) == "Bold: the best of those trained without labels"
    assert bold_line(of(entry("dino", 50.0))) == ""
    remarks = display_table(of(entry("dino", 0.0, images=100), entry("simclr", 0.0, images=100)), False).remarks
    assert any("reach at most 3.7 to either side" in each for each in remarks)  # z² / (n + z²) = 3.84 / 103.84


def seeds(method: str, *values: float) -> list[Entry]:
    return [entry(method, value, seed=seed) for seed, value in enumerate(values)]


def test_the_first_two_of_several_seeds_are_tested():
    """Paired, differences 2, 4, 6: 4 ± 4.303 x 2 / sqrt(3). Welch, equal deviations of 2: 5 ± 2.776 x 2 sqrt(2 / 3)."""
    paired = of(*seeds("dino", 50.0, 55.0, 60.0), *seeds("simclr", 48.0, 51.0, 54.0))
    found = lead(*ranked(paired, "linear"), "linear")
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((4, 4 - 4.9683, 4 + 4.9683), abs=1e-3)
    assert found.how == "paired by 3 seeds"
    assert "differ by 4.0 points [-1.0, 9.0] (paired by 3 seeds): the interval contains 0" in headlines([], paired)[0]
    assert "DINO is ahead with" in headlines([], paired)[0]
    assert [row.method for row in best(paired, "linear")] == ["DINO", "SimCLR"]
    assert bold_line(paired) == "Bold: the best, and those whose difference from it may be chance (95 % intervals)"
    others = [replace(one, seed=one.seed + 9) for one in seeds("simclr", 45.0, 47.0, 49.0) if one.seed is not None]
    welch = of(*seeds("dino", 50.0, 52.0, 54.0), *others)
    found = lead(*ranked(welch, "linear"), "linear")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((5 - 4.5341, 5 + 4.5341), abs=1e-3)
    assert found.how == "Welch, 3 and 3 runs"
    assert "DINO is best with" in headlines([], welch)[0]
    assert [row.method for row in best(welch, "linear")] == ["DINO"]


def test_seeds_that_all_differ_by_the_same_prove_nothing():
    rows = of(*seeds("dino", 50.0, 52.0), *seeds("simclr", 49.0, 51.0))
    assert "differ by 1.0 points; no interval can be drawn from these runs" in headlines([], rows)[0]
    assert [row.method for row in best(rows, "linear")] == ["DINO", "SimCLR"]


def test_baselines_that_no_model_beats_are_the_news():
    random = replace(entry("random", 60.0), settings={})
    rows = of(entry("dino", 50.0), entry("simclr", 60.0), entry("supervised", 90.0), random)
    (news,) = baseline_lines(rows)
    assert news == (
        "Linear probe: no model trained without labels is better than random weights of ViT-micro/8, 60.0 % against "
        "60.0 % of the best, SimCLR on ViT-micro/8"
    )
    assert news in display_table(rows, False).remarks
    assert headlines([], rows)[0] == f"{news}."
    pair = of(entry("dino", 50.0), entry("supervised", 90.0), random)
    assert "no model trained without labels is better than" in baseline_lines(pair)[0]
    assert baseline_lines(of(entry("dino", 60.1), random)) == []
    assert "no model is better than" in baseline_lines(of(entry("dino", 50.0), random))[0]
    elsewhere = replace(
        random, measurements={"linear": Result("linear", {"val": "c"}, random.measurements["linear"].metrics)}
    )
    assert baseline_lines(of(entry("dino", 50.0), elsewhere)) == []


def test_one_model_and_nothing_measured():
    assert headlines([], of(entry("dino", 50.0))) == [
        "Linear probe on 1,000 images of b at 32 px: the frozen features of DINO reach 50.0 % [46.9, 53.1]. "
        "Guessing: 25.0 %."
    ]
    assert "was not measured" in headlines([], None)[0]


@pytest.mark.parametrize(
    ("titles", "short"),
    [
        (["dino-vit_micro", "simclr-vit_micro"], ["dino", "simclr"]),
        (["runs/a/dino", "runs/b/dino"], ["a", "b"]),
        (["run-s0", "run-s1"], ["s0", "s1"]),
        (["a-b", "a-b-c"], ["b", "b-c"]),
        (["dino-vit", "dino-resnet", "moco-vit"], ["dino-vit", "dino-resnet", "moco-vit"]),
        (["dino"], ["dino"]),
        ([], []),
    ],
)
def test_what_all_titles_share_is_left_out_where_there_is_little_room(titles, short):
    assert told_apart(titles) == short


def test_wide_pictures_have_a_min_width():
    file = io.BytesIO()
    Image.fromarray(np.zeros((10, 1200, 3), np.uint8)).save(file, "png")
    assert Figure(file.getvalue(), "", "").min_width == 900
    assert Figure(file.getvalue(), "", "", width=500).min_width == 500
    drawing = '<svg viewBox="0 0 600 300" width="600pt"></svg>'
    assert Figure(drawing, "", "").min_width == 600  # points are larger than pixels
    assert Figure('<svg width="5"></svg>', "", "").min_width == 0
