"""Retrieval: scores by hand and against a plain computation, ground truth of Oxford and Paris, and the command."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dinoscope.cli import main
from dinoscope.data.sources import images_in_folder, split_images
from dinoscope.errors import UserError
from dinoscope.evaluation import retrieval
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.retrieval import (
    EVALUATION,
    KS,
    RetrievalConfig,
    cropped,
    generalised_mean,
    landmark_scores,
    leave_one_out,
    rank_scores,
    read_landmarks,
    shrunk,
    truth_file,
)
from dinoscope.model_names import load_model
from dinoscope.types import FeatureBank

CPU = Context(torch.device("cpu"), workers=0, cached=False)
VIT = "random:vit_micro_conv8"


def flags(count: int, *positions: int) -> Tensor:
    marks = torch.zeros(1, count, dtype=torch.bool)
    marks[0, list(positions)] = True
    return marks


def falling(count: int) -> Tensor:
    return torch.linspace(1, -1, count)[None]


# Scores


def test_scores_by_hand_with_junk() -> None:
    # Ranks 0 to 7; 0 and 3 are junk, so the positives 1, 4 and 6 are at ranks 0, 2 and 4 of what is left.
    scores = rank_scores(falling(8), flags(8, 1, 4, 6), flags(8, 0, 3))
    trapezoids = (1 + 1 / 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2
    assert scores.average_precision.tolist() == pytest.approx([trapezoids / 3])
    assert scores.precision[0].tolist() == pytest.approx([1, 3 / 5, 3 / 5])  # the last positive is the fifth
    assert scores.recall[0].tolist() == [1, 1, 1]


def test_a_late_positive_by_hand() -> None:
    scores = rank_scores(falling(20), flags(20, 6), flags(20))
    assert scores.average_precision.tolist() == pytest.approx([(0 / 6 + 1 / 7) / 2])
    assert scores.precision[0].tolist() == pytest.approx([0, 0, 1 / 7])
    assert scores.recall[0].tolist() == [0, 0, 1]


def test_without_positives_there_is_no_score_and_junk_wins() -> None:
    scores = rank_scores(falling(4).expand(2, 4), flags(4, 1).expand(2, 4), torch.cat([flags(4, 1), flags(4)]))
    assert math.isnan(scores.average_precision[0])
    assert scores.precision[0].isnan().all()
    assert scores.recall[0].isnan().all()
    assert scores.average_precision[1] == pytest.approx((0 / 1 + 1 / 2) / 2)


def plain_scores(ranking: list[int], positives: set[int], junk: set[int]) -> tuple[float, list[float], list[float]]:
    """One image at a time."""
    seen, right, area, before, last = 0, 0, 0.0, 1.0, 0
    found: list[bool] = []
    for image in ranking:
        if image in junk:
            continue
        found.append(image in positives)
        if found[-1]:
            before = right / seen if seen else 1.0
            right += 1
            area += (before + right / (seen + 1)) / 2
            last = seen + 1
        seen += 1
    precisions = [sum(found[: min(k, last)]) / min(k, last) for k in KS]
    return area / right, precisions, [float(any(found[:k])) for k in KS]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_random_rankings_agree_with_a_plain_computation(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    similarities = torch.as_tensor(random.integers(0, 6, (5, count)) / 5)  # many are equal
    kinds = random.integers(0, 3, (5, count))  # 0 wrong, 1 right, 2 junk
    kinds[:, 0] = 1
    scores = rank_scores(similarities, torch.as_tensor(kinds == 1), torch.as_tensor(kinds == 2))
    for query in range(5):
        ranking = sorted(range(count), key=lambda image, row=query: (-float(similarities[row, image]), image))
        right, junk = (set(np.flatnonzero(kinds[query] == kind).tolist()) for kind in (1, 2))
        precision, first, recall = plain_scores(ranking, right, junk)
        assert scores.average_precision[query] == pytest.approx(precision)
        assert scores.precision[query].tolist() == pytest.approx(first)
        assert scores.recall[query].tolist() == recall


# Labelled images


def bank(count: int = 60, *, groups: bool = False) -> FeatureBank:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 4
    features = torch.randn(count, 5, generator=generator) + torch.eye(5)[labels]
    numbers = torch.randint(0, 9, (count,), generator=generator) if groups else None
    return FeatureBank(features, labels, groups=numbers)


@pytest.mark.parametrize("groups", [False, True])
def test_leave_one_out_is_that_of_a_plain_loop(groups: bool) -> None:
    images = bank(groups=groups)
    assert images.labels is not None
    vectors = images.features.double()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    own = range(len(vectors)) if images.groups is None else images.groups.tolist()
    rows = []
    for query in range(len(vectors)):
        others = sorted(range(len(vectors)), key=lambda image, q=query: -float(vectors[q] @ vectors[image]))
        junk = {image for image in others if own[image] == own[query]}
        right = {image for image in others if images.labels[image] == images.labels[query]} - junk
        precision, _, recall = plain_scores(others, right, junk)
        rows.append((precision, *recall))
    means = 100 * np.mean(rows, axis=0)
    for max_bytes in (1, 50_000, 2**28):  # one query at a time, some, all
        metrics, without = leave_one_out(images, RetrievalConfig(max_bytes=max_bytes), CPU)
        assert [metric.value for metric in metrics] == pytest.approx(means)
        assert without == 0
    assert [metric.title for metric in metrics] == ["retrieval_map", *(f"retrieval_recall (k = {k})" for k in KS)]
    assert all(m.low is not None and m.high is not None and m.low <= m.value <= m.high for m in metrics)
    assert {metric.n for metric in metrics} == {9 if groups else 60}


def test_images_without_another_of_their_class_are_no_queries() -> None:
    images = FeatureBank(torch.eye(3)[[0, 0, 1]] + 0.1, torch.tensor([0, 0, 1]))
    metrics, without = leave_one_out(images, RetrievalConfig(), CPU)
    assert without == 1
    assert metrics[0].value == 100
    for labels, groups in (([0, 0, 0], None), ([0, 1, 2], None), ([0, 0, 1], [5, 5, 5])):
        numbers = None if groups is None else torch.tensor(groups)
        with pytest.raises(UserError):
            leave_one_out(FeatureBank(images.features, torch.tensor(labels), groups=numbers), RetrievalConfig(), CPU)


def test_a_block_of_similarities_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def noted(similarities: Tensor, *marks: Tensor) -> retrieval.Scores:
        sizes.append(similarities.numel())
        return rank_scores(similarities, *marks)

    monkeypatch.setattr(retrieval, "rank_scores", noted)
    leave_one_out(bank(200), RetrievalConfig(max_bytes=2**20), CPU)
    assert sum(sizes) == 200 * 200
    assert max(sizes) * 64 <= 2**19


# The ground truth

TRUTH: dict[str, Any] = {
    "imlist": ["a_000", "a_001", "b_000", "b_001", "b_002"],
    "qimlist": ["q_a", "q_b"],
    "gnd": [
        {"bbx": [2.0, 3.0, 20.5, 24.0], "easy": [0], "hard": [1], "junk": [2]},
        {"bbx": [0, 0, 30, 20], "easy": [], "hard": [3, 4], "junk": []},
    ],
}


def with_arrays() -> dict[str, Any]:
    entries: list[dict[str, Any]] = [
        {"bbx": np.array(one["bbx"], float), **{key: np.array(one[key], int) for key in ("easy", "hard", "junk")}}
        for one in TRUTH["gnd"]
    ]
    entries[1]["hard"] = [np.int64(3), np.int64(4)]
    return {**TRUTH, "gnd": entries}


def write_truth(folder: Path, content: bytes | dict[str, Any], name: str = "gnd_roxford5k.pkl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_says_what_the_json_says(protocol: int, tmp_path: Path) -> None:
    text = read_landmarks(write_truth(tmp_path, TRUTH, "gnd_x.json"))
    assert text.database == tuple(TRUTH["imlist"])
    assert text.boxes == ((2, 3, 20.5, 24), (0, 0, 30, 20))
    assert text.lists == {"easy": ((0,), ()), "hard": ((1,), (3, 4)), "junk": ((2,), ())}
    for content in (TRUTH, with_arrays()):
        raw = pickle.dumps(content, protocol=protocol)
        for names in (raw, raw.replace(b"numpy._core", b"numpy.core")) if protocol < 4 else (raw,):
            found = read_landmarks(write_truth(tmp_path, names))
            assert (found.database, found.queries, found.boxes, found.lists) == (
                *(text.database, text.queries, text.boxes, text.lists),
            )
            assert found.digest == text.digest


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_anything_else_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    traces = (tmp_path / f"trace{number}" for number in itertools.count())
    for call in (
        lambda trace: Calls(os.system, f"touch {trace}"),
        lambda trace: Calls(subprocess.check_output, ["touch", str(trace)]),
        lambda trace: Calls(eval, f"open({str(trace)!r}, 'w')"),
        lambda trace: Calls(np.ndarray.tofile, np.zeros(3), str(trace)),
        lambda trace: Calls(np.save, str(trace), np.zeros(3)),
        lambda trace: Calls(Path, str(trace)),
    ):
        trace = next(traces)
        content = pickle.dumps({**TRUTH, "gnd": [call(trace), *TRUTH["gnd"][1:]]}, protocol=protocol)
        with pytest.raises(UserError, match="nothing of it was run") as caught:
            read_landmarks(write_truth(tmp_path, content))
        assert "\n" not in str(caught.value)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith("trace")]


def test_what_is_no_ground_truth_is_refused_in_one_line(tmp_path: Path) -> None:
    def changed(query: int = 0, **values: Any) -> dict[str, Any]:
        entries = [dict(entry) for entry in TRUTH["gnd"]]
        entries[query] |= values
        return {**TRUTH, "gnd": entries}

    without = {key: value for key, value in TRUTH["gnd"][0].items() if key != "junk"}
    wrong: list[Any] = [
        *(changed(easy=[5]), changed(easy=[-1]), changed(hard=[1.0]), changed(junk=[True]), changed(easy="0")),
        *(changed(bbx=[1, 2, 3]), changed(bbx=[9, 2, 3, 4]), changed(bbx=["1", 2, 3, 4])),
        *({**TRUTH, "imlist": [name, *TRUTH["imlist"][1:]]} for name in ("../a", "a/b", "a\\b", "", "..", 3, "a\nb")),
        *({**TRUTH, "qimlist": ["q_a"]}, {**TRUTH, "qimlist": ["q_a", "q_a"]}, {**TRUTH, "imlist": []}),
        *({**TRUTH, "gnd": [without, TRUTH["gnd"][1]]}, {"imlist": TRUTH["imlist"]}, [1, 2], "text", None),
    ]
    for number, value in enumerate(wrong):
        for name, content in (("gnd_x.json", json.dumps(value).encode()), ("gnd_x.pkl", pickle.dumps(value))):
            with pytest.raises(UserError) as caught:
                read_landmarks(write_truth(tmp_path, content, name))
            assert "\n" not in str(caught.value), number
    not_finite = json.dumps(changed(bbx=[math.nan, 0, 5, 5])).encode()
    whole = pickle.dumps(with_arrays(), protocol=2)
    for name, content in (
        *(("gnd_x.json", not_finite), ("gnd_x.json", b"{"), ("gnd_x.json", b"\xff\xfe\x00"), ("gnd_x.json", b"")),
        *(("gnd_x.pkl", whole[:length]) for length in range(0, len(whole), 7)),
        *(("gnd_x.pkl", pickle.dumps(np.array([TRUTH], object))[:-20] + bytes(20)),),
    ):
        with pytest.raises(UserError):
            read_landmarks(write_truth(tmp_path, content, name))
    with pytest.raises(UserError):
        read_landmarks(tmp_path / "gnd_missing.pkl")


# Oxford and Paris


def test_setups_by_hand(tmp_path: Path) -> None:
    truth = read_landmarks(write_truth(tmp_path, TRUTH, "gnd_x.json"))
    angles = torch.deg2rad(torch.tensor([20.0, 30.0, 10.0, 60.0, 40.0]))  # of the database
    database = torch.stack([angles.cos(), angles.sin()], dim=1)
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # Ranking of both: 2, 0, 1, 4, 3.
    metrics, items = landmark_scores(truth, database, queries)
    values = {metric.title: metric.value for metric in metrics}
    second = (0 / 3 + 1 / 4 + 1 / 4 + 2 / 5) / 4  # images 4 and 3 of the second query, at ranks 3 and 4
    assert values["retrieval_easy_map"] == pytest.approx(100)  # junk and the hard image are gone
    assert values["retrieval_medium_map"] == pytest.approx(100 * (1 + second) / 2)  # 0 and 1 come first without junk
    assert values["retrieval_hard_map"] == pytest.approx(100 * (1 + second) / 2)
    assert values["retrieval_medium_mp (k = 1)"] == pytest.approx(50)
    assert values["retrieval_medium_mp (k = 5)"] == pytest.approx(100 * (1 + 2 / 5) / 2)
    assert values["retrieval_easy_mp (k = 10)"] == pytest.approx(100)
    assert len(values) == 12
    assert items.names == ("q_a",)
    assert list(items.left_out) == ["q_b"]


def test_images_are_shrunk_as_pillow_makes_thumbnails_and_never_enlarged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (75, 120, 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture.thumbnail((50, 50), Image.Resampling.LANCZOS)
    assert (shrunk(pixels, 50) == np.asarray(picture)).all()
    assert shrunk(pixels, 50).shape == (31, 50, 3)
    assert shrunk(pixels, 120) is pixels
    assert (cropped(pixels, (9.6, -4, 20.4, 900)) == pixels[:, 10:20]).all()
    with pytest.raises(ValueError):
        cropped(pixels, (130, 0, 140, 10))


def test_the_generalised_mean_by_hand() -> None:
    patches = torch.tensor([[[1.0, -5.0], [3.0, 2.0]]])
    assert generalised_mean(patches, 1)[0].tolist() == pytest.approx([2, 1], abs=1e-5)
    assert generalised_mean(patches, 3)[0].tolist() == pytest.approx([14 ** (1 / 3), 4 ** (1 / 3)])


@pytest.fixture
def oxford(tmp_path: Path) -> Path:
    """Five pictures and two queries, which show a picture of the database in their box and noise around it."""
    folder, random = tmp_path / "roxford5k", np.random.default_rng(1)
    (folder / "jpg").mkdir(parents=True)
    pictures = {}
    for name in TRUTH["imlist"]:
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
        pictures[name] = np.asarray(coarse.resize((50, 40), Image.Resampling.NEAREST))
    entries = [dict(entry) for entry in TRUTH["gnd"]]
    for name, entry, shown in zip(TRUTH["qimlist"], entries, ("a_000", "b_001"), strict=True):
        whole = random.integers(0, 256, (80, 90, 3), np.uint8)
        whole[10:50, 20:70] = pictures[shown]
        pictures[name] = whole
        entry["bbx"] = np.array([20, 10, 70, 50], float)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / "jpg" / f"{name}.jpg", quality=95)
    write_truth(folder, pickle.dumps({**TRUTH, "gnd": entries}, protocol=2))
    return folder


def test_oxford_by_the_command(oxford: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["retrieval", "--model", VIT, "random:resnet_micro", "--data", str(oxford), "--image-size", "40"]
    arguments += ["--device", "cpu", "--workers", "0", "--published"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 queries, cropped to their boxes, against 5 images" in printed
    models = json.loads((tmp_path / "out" / "retrieval.json").read_text())["models"]
    for model in models:
        values = {(m["name"], m.get("parameters", {}).get("k")): m["value"] for m in model["metrics"]}
        assert values["retrieval_easy_map", None] == 100  # the crop is the picture itself
        assert values["retrieval_medium_mp", 1] == 100
    assert "q_a" in (tmp_path / "out" / "retrieval.csv").read_text()
    for option in (["--uncropped"], ["--multi-scale"], ["--feature", "gem", "--p", "2"]):
        assert main([*arguments, *option]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("shown whole, as in DINO's script", "scales 1, 0.71 and 0.5", "GeM of patches (p = 2)"):
        assert words in printed


def test_features_do_not_depend_on_threads_and_are_means_over_scales(oxford: Path) -> None:
    model = load_model(VIT)
    single = next(retrieval.run([model], oxford, RetrievalConfig(), CPU))
    threaded = Context(torch.device("cpu"), workers=3, cached=False)
    assert next(retrieval.run([model], oxford, RetrievalConfig(), threaded)).metrics == single.metrics
    pixels = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        mixed = retrieval._feature(model.backbone.eval(), pixels, RetrievalConfig(multi_scale=True))
        parts = [
            model.backbone(torch.nn.functional.interpolate(pixels, scale_factor=scale, mode="bilinear")).feature
            for scale in (1, 2**-0.5, 0.5)
        ]
    assert mixed.numpy() == pytest.approx(torch.stack(parts).mean(dim=0).numpy(), abs=1e-5)
    assert mixed.numpy() != pytest.approx(parts[0].numpy(), abs=1e-3)


def test_what_is_expected_of_oxford_is_what_is_measured(oxford: Path) -> None:
    model = load_model(VIT)
    result = next(retrieval.run([model], oxford, RetrievalConfig(), CPU))
    wanted = EVALUATION.expected(model, oxford, RetrievalConfig(), CPU)
    assert {key: result.protocol.get(key) for key in wanted} == wanted
    (oxford / "gnd_roxford5k.json").write_text(json.dumps(TRUTH))  # with other boxes
    assert EVALUATION.expected(model, oxford, RetrievalConfig(), CPU)["truth"] != wanted["truth"]
    file = truth_file(oxford)
    assert file is not None
    assert file.name == "gnd_roxford5k.json"


def test_what_does_not_fit_is_refused_in_one_line(oxford: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["retrieval", "--model", VIT, "--data", str(oxford), "--device", "cpu", "--workers", "0"]

    def refused(*options: str) -> str:
        assert main([*arguments, "--image-size", "40", *options]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert "Traceback" not in "".join(lines)
        return " ".join(lines)

    assert "--crop-fraction" in refused("--crop-fraction", "0.9")
    assert "--group" in refused("--group", "^(.)")
    assert "--split" in refused("--split", "0.5")
    assert "--p" in refused("--p", "0")
    assert "shape" in refused("--model", "pixels")
    (oxford / "jpg" / "b_002.jpg").write_bytes(b"no image")
    assert "b_002.jpg" in refused()
    (oxford / "jpg" / "b_002.jpg").unlink()
    assert "b_002.jpg is missing" in refused()
    write_truth(oxford, pickle.dumps(Calls(os.system, f"touch {oxford / 'trace'}")))
    assert "system" in refused()
    assert not (oxford / "trace").exists()
    write_truth(oxford, TRUTH, "gnd_second.pkl")
    assert "gnd_second.pkl" in refused()


def test_whitening_is_learned_on_another_folder(oxford: Path, picture_folder: Any, tmp_path: Path) -> None:
    other = picture_folder(9, classes=2, size=(40, 50), name="other")
    folder = picture_folder(8, classes=2, name="labelled")
    model, config = load_model(VIT), RetrievalConfig(whiten=other)
    for data in (oxford, folder):
        plain, whitened = (next(retrieval.run([model], data, own, CPU)) for own in (RetrievalConfig(), config))
        wanted = EVALUATION.expected(model, data, config, CPU)
        assert {key: whitened.protocol.get(key) for key in wanted} == wanted
        assert whitened.metrics != plain.metrics
        assert str(other) in EVALUATION.protocol_line(whitened.protocol)
    for wrong in (folder, folder.parent, folder / "class0", tmp_path / "missing"):
        with pytest.raises(UserError):
            next(retrieval.run([model], folder, RetrievalConfig(whiten=wrong), CPU))
    with pytest.raises(UserError):
        next(retrieval.run([model], oxford, RetrievalConfig(whiten=oxford / "jpg"), CPU))


def test_labelled_folders_by_the_command(picture_folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = picture_folder(8, classes=2, split="train")
    picture_folder(16, classes=2, split="val")
    arguments = ["retrieval", "--model", VIT, "--device", "cpu", "--workers", "0", "--image-size", "32"]
    for place, count in ((folder, 16), (folder / "train", 8)):
        assert main([*arguments, "--data", str(place), "--json"]) == 0
        (result,) = json.loads(capsys.readouterr().out)["models"]
        assert (
            result["protocol"]["images"] == count == len(images_in_folder(folder / ("val" if count == 16 else "train")))
        )
        assert [metric["name"] for metric in result["metrics"]] == ["retrieval_map", *["retrieval_recall"] * 3]
    (folder / "train").rename(folder.parent / "moved")
    for options, count in (([], 16), (["--split", "0.5"], None)):
        assert main([*arguments, "--data", str(folder), "--json", *options]) == 0
        (result,) = json.loads(capsys.readouterr().out)["models"]
        images = images_in_folder(folder / "val", labelled=True)
        held_out = len(split_images(images, 0.5)[1]) if count is None else count
        assert result["protocol"]["images"] == held_out
    for option in (["--uncropped"], ["--multi-scale"], ["--feature", "gem"]):
        assert main([*arguments, "--data", str(folder), *option]) == 2
        assert option[0] in capsys.readouterr().err
