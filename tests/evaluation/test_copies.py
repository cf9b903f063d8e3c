"""Copy detection: files in the layout of Copydays, ranks and average precision by hand, and whitening."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dinoscope.cli import main
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.copies import (
    EVALUATION,
    CopiesConfig,
    average_precisions,
    find_copydays,
    learn_whitening,
    original_ranks,
    squashed,
)
from dinoscope.evaluation.retrieval import rank_scores
from dinoscope.model_names import load_model
from tests.pictures import draw_picture

CPU = Context(torch.device("cpu"), workers=0, cached=False)
VIT = "random:vit_micro_conv8"


def save(file: Path, pixels: np.ndarray, quality: int = 95) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)


def write_copydays(root: Path, originals: int = 5) -> Path:
    """The official layout with few small images: two levels of JPEG, one of crops, and one or two strong copies."""
    for number in range(originals):
        pixels, source = draw_picture(number, (48, 64)), 2000 + number
        save(root / "original" / f"{source}00.jpg", pixels)
        for quality in (10, 50):
            save(root / "jpegqual" / str(quality) / f"{source}01.jpg", pixels, quality)
        save(root / "crops" / "20" / f"{source}01.jpg", pixels[4:-4, 4:-4])
        for copy in range(1 + number % 2):
            save(root / "strong" / f"{source}0{copy + 1}.jpg", cv2.GaussianBlur(pixels[:, ::-1], (0, 0), 2 + copy))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_copydays(tmp_path / "copydays")


# Ranks and scores


def test_average_precision_by_hand() -> None:
    ranks = torch.tensor([0, 1, 2, 19, 20, 500])
    expected = [1, (0 + 1 / 2) / 2, (0 + 1 / 3) / 2, (0 + 1 / 20) / 2, 0, 0]
    assert average_precisions(ranks).tolist() == pytest.approx(expected)


def test_ranks_and_precisions_are_those_of_retrieval_within_the_first_twenty() -> None:
    generator = torch.Generator().manual_seed(0)
    database, queries = torch.randn(40, 5, generator=generator), torch.randn(30, 5, generator=generator)
    database[7] = database[3]  # equal ones come in the order of the database
    answers = torch.arange(30) % 10
    ranks = original_ranks(database, queries, answers)
    cosines = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(database, dim=1).T
    rankings = cosines.argsort(dim=1, descending=True, stable=True).tolist()
    assert ranks.tolist() == [ranking.index(answer) for ranking, answer in zip(rankings, answers.tolist(), strict=True)]
    positives = torch.arange(40) == answers[:, None]
    whole = rank_scores(cosines, positives, torch.zeros_like(positives)).average_precision
    early = ranks < 20
    assert 0 < early.sum() < 30
    torch.testing.assert_close(average_precisions(ranks)[early], whole[early])


def test_whitening_equals_plain_numpy() -> None:
    random = np.random.default_rng(0)
    seen = random.normal(1.0, 1.0, (50, 6)) * [1, 2, 3, 1, 1e-4, 1]
    whiten = learn_whitening(torch.as_tensor(seen, dtype=torch.float64).float())
    values = np.asarray(torch.as_tensor(seen).float().double())
    moments = sum(np.outer(row, row) for row in values) / 50
    eigenvalues, eigenvectors = np.linalg.eigh(moments)
    assert eigenvalues[0] < 1e-5 * eigenvalues[-1], "the floor matters here"
    queries = random.normal(size=(4, 6))
    expected = (
        (queries - values.mean(axis=0))
        @ eigenvectors
        / np.sqrt([max(value, 1e-5 * eigenvalues[-1]) for value in eigenvalues])
    )
    cosines = [
        torch.nn.functional.normalize(torch.as_tensor(rows), dim=1)
        for rows in (whiten(torch.as_tensor(queries)), expected)
    ]
    torch.testing.assert_close(cosines[0] @ cosines[0].T, cosines[1] @ cosines[1].T)


def test_images_are_squashed() -> None:
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 30:] = 200
    square = squashed(image, 16)
    assert square.shape == (3, 16, 16)
    assert square[:, :, :7].max() < 20
    assert square[:, :, 9:].min() > 180


# Files


def test_the_official_layout_is_read(data: Path) -> None:
    found = find_copydays(data)
    assert [block.name for block in found.blocks] == ["strong", "jpeg-10", "jpeg-50", "crops-20"]
    assert len(found.originals) == 5
    assert found.blocks[0].images.keys == (
        *("200001.jpg", "200101.jpg", "200102.jpg", "200201.jpg", "200301.jpg", "200302.jpg", "200401.jpg"),
    )
    assert found.blocks[0].answers == (0, 1, 1, 2, 3, 3, 4)
    assert found.blocks[1].answers == (0, 1, 2, 3, 4)


def test_names_may_be_in_upper_case(data: Path) -> None:
    expected = find_copydays(data)
    for file in list(data.rglob("*.jpg")):
        file.rename(file.with_suffix(".JPG"))
    (data / "original").rename(data / "Original")
    (data / "jpegqual").rename(data / "jpeg")
    found = find_copydays(data)
    assert [(block.name, block.answers) for block in found.blocks] == [
        (block.name, block.answers) for block in expected.blocks
    ]


def break_layout(data: Path, fault: str) -> None:
    if fault == "no originals":
        shutil.rmtree(data / "original")
    elif fault == "a missing copy":
        (data / "jpegqual" / "10" / "200301.jpg").unlink()
    elif fault == "a missing original":
        (data / "original" / "200300.jpg").unlink()
    elif fault == "two originals":
        shutil.copy(data / "original" / "200000.jpg", data / "original" / "200099.jpg")
    elif fault == "a short name":
        shutil.copy(data / "original" / "200000.jpg", data / "original" / "1.jpg")
    elif fault == "no copies":
        for name in ("strong", "jpegqual", "crops"):
            shutil.rmtree(data / name)
    elif fault == "no levels":
        shutil.move(data / "crops" / "20", data / "crops" / "twenty")
    else:
        for file in (data / "strong").iterdir():
            file.unlink()


@pytest.mark.parametrize(
    "fault",
    [
        *("no originals", "a missing copy", "a missing original", "two originals", "a short name", "no copies"),
        *("no levels", "an empty folder"),
    ],
)
def test_what_is_not_laid_out_so_is_refused(fault: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_layout(data, fault)
    with pytest.raises(UserError):
        find_copydays(data)
    assert main(["copies", "--model", VIT, "--data", str(data), "--device", "cpu"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_image_ends_the_measurement(data: Path) -> None:
    (data / "strong" / "200001.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"strong/200001\.jpg"):
        list(EVALUATION.run([load_model(VIT)], data, CopiesConfig(), CPU))


# The evaluation


def test_light_copies_are_found_and_every_choice_is_in_the_protocol(data: Path, tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / "others" / f"{number}.jpg", draw_picture(100 + number, (48, 48)))
        save(tmp_path / "distractors" / f"{number}.jpg", draw_picture(200 + number, (40, 60)))
    config = CopiesConfig(distractors=tmp_path / "distractors", whiten=tmp_path / "others")
    (plain,) = EVALUATION.run([load_model(VIT)], data, CopiesConfig(), CPU)
    (whitened,) = EVALUATION.run([load_model(VIT)], data, config, CPU)
    for result in (plain, whitened):
        metric = result.metric("copies_jpeg_map", level=50)
        assert metric is not None
        assert metric.value > 90
        assert result.items is not None
        strong = result.metric("copies_strong_map")
        assert strong is not None
        scores = dict(zip(result.items.names, result.items.figures["copies_ap"], strict=True))
        of_strong = [score for name, score in scores.items() if name.startswith("strong/")]
        assert len(of_strong) == 7
        assert strong.value == pytest.approx(np.mean(of_strong))
    assert plain.protocol["distractor_images"] == 0
    assert plain.protocol["whitened_on"] is None
    assert whitened.protocol["distractor_images"] == 30
    line = EVALUATION.protocol_line(whitened.protocol)
    for word in ("22 copies", "5 originals", "30 distractors", "p = 4", "others", "first 20", "squashed to"):
        assert word in line
    assert dict(EVALUATION.expected(load_model(VIT), data, config, CPU)) == whitened.protocol


def test_the_figure_is_that_of_features_made_by_hand(data: Path) -> None:
    model = load_model(VIT)
    (result,) = EVALUATION.run([model], data, CopiesConfig(p=2.0), CPU)
    size, backbone = model.backbone.config.image_size, model.backbone.eval()

    def feature(file: Path) -> torch.Tensor:
        with Image.open(file) as image:
            pixels = torch.as_tensor(np.array(image.resize((size, size), Image.Resampling.BICUBIC)))
        with torch.no_grad():
            tokens = backbone(backbone.normalize(pixels.permute(2, 0, 1)[None]))
        patches = tokens.patches.clamp(min=1e-6).square().mean(dim=1).sqrt()
        return torch.nn.functional.normalize(torch.cat([tokens.feature, patches], dim=1), dim=1)[0]

    originals = {file.name[:4]: feature(file) for file in sorted((data / "original").iterdir())}
    scores: list[float] = []
    for file in sorted((data / "strong").iterdir()):
        query = feature(file)
        own = query @ originals[file.name[:4]]
        before = sum(bool(query @ other > own) for name, other in originals.items() if name != file.name[:4])
        scores.append(1.0 if before == 0 else 0.5 / (before + 1))
    metric = result.metric("copies_strong_map")
    assert metric is not None
    assert metric.value == pytest.approx(100 * np.mean(scores))


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "copies",
        "--model",
        VIT,
        "--data",
        str(data),
        "--device",
        "cpu",
        "--published",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "DINO ViT-B/8" in out
    values = json.loads(next((tmp_path / "o").glob("*.json")).read_text())
    assert "copies_strong_map" in json.dumps(values)


def test_whitening_and_distractors_of_what_is_measured_are_refused(data: Path) -> None:
    for place in (data, data / "original", data.parent):
        for config in (CopiesConfig(whiten=place), CopiesConfig(distractors=place)):
            with pytest.raises(UserError, match="is measured"):
                list(EVALUATION.run([load_model(VIT)], data, config, CPU))


@pytest.mark.parametrize("p", [0.0, -1.0, float("nan")])
def test_a_power_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(UserError):
        CopiesConfig(p=p)
