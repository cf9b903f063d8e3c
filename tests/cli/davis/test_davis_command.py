"""`dinoscope davis`: from drawn videos to masks, scores and tables; masks that exist already; mistakes in one line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dinoscope.data.benchmarks import encode_indices, read_indices
from dinoscope.evaluation import propagation
from dinoscope.files import MARK
from tests.cli.davis.conftest import FRAMES, NAMES, figures, follow, run


def files(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return sorted(str(path.relative_to(folder)) for path in files)


def test_a_model_and_a_random_one(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert follow(data, model, "random:vit_micro_conv8", "--out", out, "--published", "--no-overlay") == 0
    shown = capsys.readouterr().out
    for text in ("scene-00", "mine", "J&F", "DINO ViT-B/8", "71.4", "radius 12", "Caron et al. 2021"):
        assert text in shown
    masks = [f"{name}/scene-00/{frame}" for name in ("mine", "random-vit_micro_conv8") for frame in FRAMES]
    settings = [f"{name}/settings/scene-00.json" for name in ("mine", "random-vit_micro_conv8")]
    assert files(out) == sorted([*masks, *settings, "davis.csv", "davis.json", "davis.tex", "scores.csv", "table.md"])
    truth = data / "Annotations/480p/scene-00/00000.png"
    first = read_indices(out / "mine/scene-00/00000.png")
    assert np.array_equal(first, read_indices(truth))
    assert first.shape == (60, 100)

    rows = list(csv.DictReader((out / "davis.csv").open()))
    assert (out / "scores.csv").read_bytes() == (out / "davis.csv").read_bytes(), "the name of version 0.1"
    assert [(row["model"], row["sequence"], row["object"], row["frames"]) for row in rows] == [
        (name, "scene-00", number, "3") for name in ("mine", "random vit_micro_conv8") for number in ("1", "2")
    ]
    record = json.loads((out / "davis.json").read_text())
    mine = {m["name"]: m["value"] for m in record["models"][0]["metrics"] if "parameters" not in m}
    assert list(mine) == NAMES
    for name in NAMES:
        assert mine[name] == pytest.approx(np.mean([float(row[name]) for row in rows[:2]]), abs=1e-3)
    assert mine["jf_mean"] == pytest.approx((mine["j_mean"] + mine["f_mean"]) / 2)
    table = (out / "table.md").read_text()
    assert f"| mine | {mine['jf_mean']:.1f} | {mine['j_mean']:.1f} |" in table  # one video proves no winner
    assert "No intervals: one sequence does not tell how much the figures vary." in table
    kept = json.loads((model / "evaluations/davis-2017.json").read_text())
    assert kept["metrics"] == record["models"][0]["metrics"]
    assert kept["protocol"]["sequences"] == ["scene-00"]
    assert (kept["protocol"]["objects"], kept["protocol"]["frames"], kept["protocol"]["top_k"]) == (2, 5, 5)


def test_masks_that_exist_already_score_the_same(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    follow(data, model, "--out", out, "--no-overlay", "--json")
    (first,) = figures(capsys)
    assert run(data, "--results", out / "mine", "--json") == 0
    assert figures(capsys) == [first]
    for frame in (FRAMES[0], FRAMES[-1]):  # which are not scored
        (out / "mine/scene-00" / frame).unlink()
    assert run(data, "--results", out / "mine", "--json") == 0
    assert figures(capsys) == [first]


def test_rows_of_one_name_are_told_apart(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [shutil.copytree(data / "Annotations/480p", tmp_path / name / "mine") for name in ("a", "b")]
    assert follow(data, model, "--results", *folders, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [each["model"] for each in record["models"]] == ["mine", "a/mine", "b/mine"]


def test_all_that_is_wrong_is_told_before_anything_is_followed(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size below the patch of the second model, masks of it that are in the way, and results that are not whole."""
    random, out = "random:vit_tiny_patch16_224", tmp_path / "out"
    (out / "random-vit_tiny_patch16_224/scene-00").mkdir(parents=True)
    shutil.copy(data / "Annotations/480p/scene-00/00000.png", out / "random-vit_tiny_patch16_224/scene-00")
    results = Path(shutil.copytree(data / "Annotations/480p", tmp_path / "results"))
    (results / "scene-00/00002.png").unlink()
    monkeypatch.setattr(propagation, "cell_features", lambda *_: pytest.fail("the network was asked"))
    for options, message in (
        (("--size", 8, "--model", model, random), "at least one patch of 16 px"),
        (("--out", out, "--model", model, random), "holds masks made with other settings"),
        (("--results", results), "00002.png is missing"),
    ):
        assert follow(data, model, *options) == 2
        assert message in capsys.readouterr().err


def test_the_ground_truth_scores_100(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--results", data / "Annotations/480p", "--json") == 0
    (found,) = figures(capsys)
    assert [found[name] for name in NAMES] == [100, 100, 100, 0, 100, 100, 0]


def test_means_have_intervals_over_the_sequences(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sequence that is right and one that is all background: of two, Student's interval reaches both limits."""
    for room in ("JPEGImages", "Annotations"):
        shutil.copytree(data / room / "480p/scene-00", data / room / "480p/scene-01")
    masks = tmp_path / "masks"
    shutil.copytree(data / "Annotations/480p", masks)
    for file in (masks / "scene-01").iterdir():
        file.write_bytes(encode_indices(np.zeros_like(read_indices(file))))
    both = ("--results", masks, "--sequences", "scene-00", "scene-01")
    assert run(data, *both, "--json") == 0
    metrics = {each["name"]: each for each in reversed(json.loads(capsys.readouterr().out)["models"][0]["metrics"])}
    assert (metrics["j_mean"]["value"], metrics["j_mean"]["low"], metrics["j_mean"]["high"]) == (50, 0, 100)
    assert [name for name, metric in metrics.items() if "low" in metric] == ["f_mean", "j_mean", "jf_mean"]
    assert run(data, *both, "--out", tmp_path / "out", "--no-overlay") == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert r"| 50.0 \[0.0, 100.0\] |" in table
    assert "Intervals: 95 %, Student's, over 2 sequences." in table


def test_in_2016_everything_is_one_object(data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "ImageSets/2016").mkdir()
    shutil.copy(data / "ImageSets/2017/val.txt", data / "ImageSets/2016")
    assert follow(data, model, "--year", 2016, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert {m["parameters"]["object"] for m in record["models"][0]["metrics"] if "parameters" in m} == {1}
    assert (model / "evaluations/davis-2016.json").is_file()


def test_part_of_the_frames_is_said_and_kept_apart(data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "evaluations/davis-2017.json").unlink(missing_ok=True)
    assert follow(data, model, "--limit-frames", 3) == 0
    assert "Only the first 3 frames of each sequence" in capsys.readouterr().out
    assert (model / "evaluations/davis-2017-part.json").is_file()
    assert not (model / "evaluations/davis-2017.json").exists()


def test_what_is_not_scored_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = data / "Annotations/480p/scene-00"
    results = Path(shutil.copytree(annotations.parent, data / "results"))
    (annotations / FRAMES[2]).unlink()
    mask = read_indices(annotations / FRAMES[3])
    mask[:4, :4] = 9
    (annotations / FRAMES[3]).write_bytes(encode_indices(mask))
    assert run(data, "--results", results) == 0
    shown = capsys.readouterr().out
    assert "Frames without annotation, not scored: 1" in shown
    assert "after the first frame, not scored (as officially): 1" in shown


def spoil(data: Path, kind: str) -> None:
    """One thing wrong with the data."""
    annotations = data / "Annotations/480p/scene-00"
    if kind == "no annotations":
        shutil.rmtree(annotations)
    elif kind == "no first annotation":
        (annotations / FRAMES[0]).unlink()
    elif kind == "other size":
        (annotations / FRAMES[1]).write_bytes(encode_indices(np.ones((60, 101), np.uint8)))
    elif kind == "all void":
        (annotations / FRAMES[0]).write_bytes(encode_indices(np.full((60, 100), 255, np.uint8)))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no annotations", "1 of the 1 sequences of 2017 lack frames or annotations"),
        ("no first annotation", "00000.png is missing"),
        ("other size", "00001.png is 101 x 60 px, and"),
        ("all void", "--year 2016"),
    ],
)
def test_bad_data(kind: str, message: str, data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(data, kind)
    assert follow(data, model) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to measure: give --model RUN, or --results"),
        (("--results", "nowhere"), "--results nowhere: no such folder"),
        (("--model", "random:vit_micro_conv8", "--sequences", "scene-0"), "did you mean scene-00?"),
        (("--model", "random:vit_micro_conv8", "--limit-frames", "2"), "2 frames are too few"),
        (("--model", "random:vit_micro_conv8", "--top-k", "0"), "top_k must be at least 1"),
        (("--model", "random:nonsense"), "neither a network nor a model"),
    ],
)
def test_bad_options(options: tuple[str, ...], message: str, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(drawn, *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_bad_masks(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Path(shutil.copytree(data / "Annotations/480p", tmp_path / "results"))
    file = results / "scene-00" / FRAMES[2]
    for content, message in (
        (encode_indices(np.full((60, 100), 3, np.uint8)), "scene-00: frame 2: the mask holds object 3"),
        (
            encode_indices(np.ones((30, 50), np.uint8)),
            "scene-00: frame 2: the mask and its ground truth differ in size",
        ),
        (b"no png", "00002.png: not a readable PNG"),
    ):
        file.write_bytes(content)
        assert run(data, "--results", results) == 2
        assert message in capsys.readouterr().err
    file.unlink()
    assert run(data, "--results", results) == 2
    assert "00002.png is missing: every annotated frame needs a mask" in capsys.readouterr().err
