"""`dinoscope davis`: from drawn videos to masks, scores and tables; masks that exist already; mistakes in one line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.data.index_png import encode_indices, read_indices
from dinoscope.data.scenes import ScenesConfig, write_scenes
from dinoscope.evaluation import propagation
from dinoscope.model_names import folder_names
from dinoscope.models.backbone import BackboneConfig, build_backbone

FRAMES = [f"{index:05d}.png" for index in range(5)]
NAMES = ["jf_mean", "j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ScenesConfig(0, 16, 0, 0, 0, davis_sequences=1, davis_frames=5, davis_size=(60, 100))
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", config) / "DAVIS"


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "DAVIS"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, as far as this command looks into it."""
    torch.manual_seed(0)
    run_folder = tmp_path_factory.mktemp("runs") / "mine"
    checkpoint.export_backbone(run_folder / "exported", build_backbone(BackboneConfig("vit_micro_conv8", 32)))
    (run_folder / "config.json").write_text("{}")
    return run_folder


def run(data: Path, *options: object) -> int:
    return cli.main(["davis", "--data", str(data), *map(str, options)])


def follow(data: Path, model: Path, *options: object) -> int:
    return run(data, "--size", 64, "--device", "cpu", "--model", model, *options)


def figures(capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    record = json.loads(capsys.readouterr().out)
    return [{metric["name"]: metric["value"] for metric in each["metrics"]} for each in record["models"]]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_model_and_a_random_one(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert follow(data, model, "random:vit_micro_conv8", "--out", out, "--published", "--no-overlay") == 0
    shown = capsys.readouterr().out
    for text in ("scene-00", "mine", "J&F", "DINO ViT-B/8", "71.4", "radius 12", "Caron et al. 2021"):
        assert text in shown
    masks = [f"{name}/scene-00/{frame}" for name in ("mine", "random-vit_micro_conv8") for frame in FRAMES]
    settings = ["mine/settings.json", "random-vit_micro_conv8/settings.json"]
    assert files(out) == sorted([*masks, *settings, "scores.csv", "scores.json", "table.md"])
    truth = data / "Annotations/480p/scene-00/00000.png"
    first = read_indices(out / "mine/scene-00/00000.png")
    assert np.array_equal(first, read_indices(truth))
    assert first.shape == (60, 100)

    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert [(row["model"], row["sequence"], row["object"], row["frames"]) for row in rows] == [
        (name, "scene-00", number, "3") for name in ("mine", "random vit_micro_conv8") for number in ("1", "2")
    ]
    record = json.loads((out / "scores.json").read_text())
    mine = {metric["name"]: metric["value"] for metric in record["models"][0]["metrics"]}
    assert list(mine) == NAMES
    for name in NAMES:
        assert mine[name] == pytest.approx(np.mean([float(row[name]) for row in rows[:2]]), abs=1e-3)
    assert mine["jf_mean"] == pytest.approx((mine["j_mean"] + mine["f_mean"]) / 2)
    assert f"| mine | {mine['jf_mean']:.1f} | {mine['j_mean']:.1f} |" in (out / "table.md").read_text()
    kept = json.loads((model / "evaluations/davis-2017.json").read_text())
    assert kept["metrics"] == record["models"][0]["metrics"]
    assert kept["protocol"]["sequences"] == ["scene-00"]
    assert (kept["protocol"]["objects"], kept["protocol"]["frames"], kept["protocol"]["top_k"]) == (2, 5, 5)


@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_overlays(kind: str, data: Path, model: Path, tmp_path: Path) -> None:
    """Five frames, as large as those of the data; made anew from the masks where only the video is missing."""
    out, gif = tmp_path / "out", ["--gif"] if kind == "gif" else []
    follow(data, model, "--out", out, *gif)
    video = out / f"mine/overlays/scene-00.{kind}"
    first = frames(video)
    assert first.shape == (5, 60, 100, 3)
    image = cv2.imread(str(data / "JPEGImages/480p/scene-00/00000.jpg"))
    background = read_indices(out / "mine/scene-00/00000.png") == 0
    eroded = cv2.erode(background.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    shown, truth = first[0].astype(int), image.astype(int)
    assert np.abs(shown - truth)[eroded].mean() < 15 < np.abs(shown - truth)[~background].mean()
    for path in (video, *(out / name for name in ("scores.csv", "scores.json", "table.md"))):
        path.unlink()
    follow(data, model, "--out", out, *gif)
    assert np.array_equal(frames(video), first)


def frames(video: Path) -> np.ndarray:
    """BGR."""
    capture = cv2.VideoCapture(str(video))
    read = []
    while (got := capture.read())[0]:
        read.append(got[1])
    return np.stack(read)


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


def test_the_truth_scores_100(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--results", data / "Annotations/480p", "--json") == 0
    (found,) = figures(capsys)
    assert [found[name] for name in NAMES] == [100, 100, 100, 0, 100, 100, 0]


def test_in_2016_everything_is_one_object(data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "ImageSets/2016").mkdir()
    shutil.copy(data / "ImageSets/2017/val.txt", data / "ImageSets/2016")
    assert follow(data, model, "--year", 2016, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["object"] for row in record["objects"]] == ["1"]
    assert (model / "evaluations/davis-2016.json").is_file()


def test_a_run_that_was_broken_off_goes_on(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete sequences are only scored: the network is not asked again."""
    out = tmp_path / "out"
    follow(data, model, "--out", out, "--no-overlay", "--json")
    (first,) = figures(capsys)
    (out / "scores.csv").unlink()
    (out / "scores.json").unlink()
    (out / "table.md").unlink()
    asked: list[int] = []
    real = propagation.cell_features
    monkeypatch.setattr(propagation, "cell_features", lambda *a: asked.append(1) or real(*a))
    follow(data, model, "--out", out, "--no-overlay", "--json")
    assert figures(capsys) == [first]
    assert not asked
    (out / "mine/scene-00/00003.png").unlink()
    follow(data, model, "--out", out, "--no-overlay", "--json", "--overwrite")
    assert figures(capsys) == [first]
    assert len(asked) == 5


def test_nothing_is_replaced_unasked(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    follow(data, model, "--out", out, "--no-overlay")
    assert follow(data, model, "--out", out) == 2
    assert "holds results already (scores.csv)" in capsys.readouterr().err
    for name in ("scores.csv", "scores.json", "table.md"):
        (out / name).unlink()
    before = (out / "mine/scene-00/00002.png").read_bytes()
    assert follow(data, model, "--out", out, "--top-k", 1, "--no-overlay") == 2
    assert "masks made with other settings" in capsys.readouterr().err
    assert (out / "mine/scene-00/00002.png").read_bytes() == before
    assert follow(data, model, "--out", out, "--top-k", 1, "--no-overlay", "--overwrite") == 0
    (out / "file").touch()
    assert follow(data, model, "--out", out / "file" / "deeper") == 2


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
        (encode_indices(np.ones((30, 50), np.uint8)), "scene-00: frame 2: the mask and its truth differ in size"),
        (b"no png", "00002.png: not a readable PNG"),
    ):
        file.write_bytes(content)
        assert run(data, "--results", results) == 2
        assert message in capsys.readouterr().err
    file.unlink()
    assert run(data, "--results", results) == 2
    assert "00002.png is missing: every annotated frame needs a mask" in capsys.readouterr().err


def test_folders_for_any_label() -> None:
    assert folder_names(["a/b", "a b", "random vit (2)", "..", "A-B"]) == [
        "a-b",
        "a-b-2",
        "random-vit-2",
        "model",
        "A-B-3",
    ]
