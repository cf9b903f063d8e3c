"""Fine-tuning as an evaluation: what is trained, how it resumes, and what is refused."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinoscope import checkpoint
from dinoscope.data.finding import find_images
from dinoscope.errors import UserError
from dinoscope.evaluation import finetune
from dinoscope.evaluation.base import Context, measure
from dinoscope.evaluation.finetune import EVALUATION, FinetuneConfig
from dinoscope.evaluation.results import kept_names
from dinoscope.evaluation.statistics import wilson
from dinoscope.features import Progress
from dinoscope.model_names import Model, load_model, load_models
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.prediction import load_classifier
from dinoscope.training.run_folder import read_config
from dinoscope.types import Result

CPU = Context(torch.device("cpu"), workers=0, cached=False)
SHORT = FinetuneConfig(epochs=2, batch_size=8)


def write_colours(root: Path, train: int = 16, val: int = 6) -> Path:
    """Pictures of two classes, red and blue, with noise: what a few steps can learn."""
    for split, count in {"train": train, "val": val}.items():
        for kind, channel in {"red": 2, "blue": 0}.items():
            (root / split / kind).mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([number, channel, len(split)])
                picture = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                picture[..., channel] += 120
                cv2.imwrite(str(root / split / kind / f"{number}.png"), picture)
    return root


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "colours")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    torch.manual_seed(0)
    checkpoint.export_backbone(tmp_path / "model", build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    return load_model(str(tmp_path / "model"))


def tune(model: Model, data: Path, config: FinetuneConfig = SHORT, context: Context = CPU) -> Result:
    (result,) = measure(EVALUATION, [model], data, config, context)
    return result


def stopping(after: int) -> Context:
    """Conditions under which Ctrl-C is pressed after so many steps."""

    @contextlib.contextmanager
    def watch(what: str) -> Iterator[Progress]:
        def progress(done: int, total: int) -> None:
            if what == "fine-tuning" and done == after:
                os.kill(os.getpid(), signal.SIGINT)

        yield progress

    return replace(CPU, watch=watch)


def test_a_network_is_tuned_and_measured_after_the_last_epoch(model: Model, colours: Path) -> None:
    result = tune(model, colours, FinetuneConfig(epochs=6, batch_size=8))
    top1, top5 = result.metrics
    assert (top1.name, top1.n, top5.value) == ("finetune_top1", 12, 100)
    assert top1.value > 90
    assert (top1.low, top1.high) == pytest.approx([100 * end for end in wilson(top1.value / 100, 12)])
    run = Path(result.protocol["tuned"])
    settings = read_config(run)
    assert (settings.init, settings.epochs, settings.batch_size) == (str(Path(model.name).absolute()), 6, 8)
    assert (settings.views.global_size, settings.optimizer.layer_decay) == (32, 0.75)
    assert settings.optimizer.warmup_epochs == pytest.approx(2 * 6 / 20)
    metadata = checkpoint.newest_metadata(run / "checkpoints")
    assert metadata is not None
    assert (metadata["step"], metadata["total"]) == (24, 24)
    assert "last epoch of 6" in EVALUATION.protocol_line(result.protocol)
    tuned = load_model(str(run))
    assert tuned.weights_hash != model.weights_hash
    assert load_classifier(tuned).classes == ("blue", "red")


def test_an_interrupted_run_continues_to_the_same_bits(model: Model, colours: Path, monkeypatch) -> None:
    monkeypatch.setenv("DINOSCOPE_CACHE", str(colours.parent / "one"))
    whole = tune(model, colours)
    monkeypatch.setenv("DINOSCOPE_CACHE", str(colours.parent / "two"))
    with pytest.raises(KeyboardInterrupt):
        tune(model, colours, context=stopping(3))
    (run,) = (colours.parent / "two" / "finetuned").glob("vit_*")
    stopped = checkpoint.newest_metadata(run / "checkpoints")
    assert stopped is not None
    assert 0 < stopped["step"] < stopped["total"] == 8
    resumed = tune(model, colours)
    assert Path(resumed.protocol["tuned"]) == run
    assert resumed.metrics == whole.metrics
    first, second = (load_model(result.protocol["tuned"]) for result in (whole, resumed))
    assert first.weights_hash == second.weights_hash
    assert torch.equal(load_classifier(first).weight, load_classifier(second).weight)


def test_what_is_tuned_is_not_tuned_again_but_with_other_settings_it_is(
    model: Model, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tune(model, colours)
    with monkeypatch.context() as patched:
        patched.setattr(finetune, "train", None)
        assert tune(model, colours).metrics == first.metrics
    other = tune(model, colours, replace(SHORT, seed=1))
    assert other.protocol["tuned"] != first.protocol["tuned"]


def test_labelled_images_instead_of_a_folder_are_trained_on_as_they_are(model: Model, colours: Path) -> None:
    train = find_images(colours / "train", labelled=True)
    part = train.subset([index for index in range(len(train)) if index % 2])
    images = part, find_images(colours / "val", labelled=True)
    (result,) = finetune.run([model], images, SHORT, CPU)
    assert result.protocol["train_images"] == 16
    assert (Path(result.protocol["tuned"]) / "checkpoints" / "step-000000004.safetensors").exists()


def test_a_split_that_is_made_is_the_runs_own(model: Model, colours: Path) -> None:
    """So that later evaluations of the tuned run measure on what it did not see."""
    context = replace(CPU, split=0.5)
    result = tune(model, colours / "train", context=context)
    settings = read_config(Path(result.protocol["tuned"]))
    assert (settings.split, settings.data.name) == (0.5, "train")
    assert result.protocol["train_images"] + result.protocol["val_images"] == 32


def test_random_weights_are_tuned_too(model: Model, colours: Path) -> None:
    _, untrained = load_models([model, "random"])
    result = tune(untrained, colours)
    assert read_config(Path(result.protocol["tuned"])).init == "random:vit_micro_conv8"


def test_runs_lie_in_the_output_folder_and_are_not_mixed_up(model: Model, colours: Path, tmp_path: Path) -> None:
    context = replace(CPU, out=tmp_path / "out")
    assert tune(model, colours, context=context).protocol["tuned"] == str(tmp_path / "out" / "runs" / "model")
    with pytest.raises(UserError, match="other settings"):
        tune(model, colours, replace(SHORT, seed=3), context)
    tune(model, colours, replace(SHORT, seed=3), replace(context, overwrite=True))
    assert read_config(tmp_path / "out" / "runs" / "model").seed == 3


@pytest.mark.parametrize("what", ["images", "weights"])
def test_a_run_of_other_images_or_weights_in_the_output_folder_is_not_taken(
    what: str, model: Model, colours: Path, tmp_path: Path
) -> None:
    """Settings name places: what lies there may have changed, and the run would be reported as one of what is new."""
    context = replace(CPU, out=tmp_path / "out")
    config = replace(SHORT, epochs=1)
    first = tune(model, colours, config, context)
    before = load_model(first.protocol["tuned"]).weights_hash
    data = colours
    if what == "images":
        data = write_colours(tmp_path / "others", train=17)
    else:
        torch.manual_seed(1)
        checkpoint.export_backbone(Path(model.name), build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
        model = load_model(model.name)
    with pytest.raises(UserError, match=f"other {what}.*--overwrite"):
        tune(model, data, config, context)
    result = tune(model, data, config, replace(context, overwrite=True))
    assert result.protocol["tuned"] == first.protocol["tuned"]
    assert load_model(result.protocol["tuned"]).weights_hash != before


def test_classes_that_were_not_trained_are_refused_before_anything_begins(model: Model, colours: Path) -> None:
    (colours / "val" / "red").rename(colours / "val" / "green")
    with pytest.raises(UserError, match="green"):
        tune(model, colours)
    assert not (colours.parent / "finetuned").exists()


def test_images_without_labels_are_refused(model: Model, picture_folder) -> None:
    picture_folder(4, split="val")
    with pytest.raises(UserError, match=r"label|class"):
        tune(model, picture_folder(4, split="train"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (FinetuneConfig(recipe="simclr_resnet50"), "without labels"),
        (FinetuneConfig(recipe="finetun"), "finetune"),
        (FinetuneConfig(layer_decay=2.0, epochs=1), "layer-decay"),
        (FinetuneConfig(learning_rate=-1.0, epochs=1), "learning-rate"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model: Model, colours: Path, config: FinetuneConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tune(model, colours, config)


def test_what_is_no_network_is_refused(colours: Path) -> None:
    with pytest.raises(UserError, match="pixels cannot be fine-tuned"):
        tune(load_model("pixels"), colours)


def test_further_images_are_further_columns_of_one_table(model: Model, colours: Path, tmp_path: Path) -> None:
    write_colours(tmp_path / "others", train=10, val=4)
    config = replace(SHORT, epochs=1, more_data=(str(tmp_path / "others"),))
    _, untrained = load_models([model, "random"])
    first, second, third, fourth = measure(EVALUATION, [model, untrained], colours, config, CPU)
    assert [result.protocol["val_images"] for result in (first, second, third, fourth)] == [12, 12, 8, 8]
    labels = [model.label, untrained.label]
    assert [third.protocol["label"], fourth.protocol["label"]] == labels
    assert len({result.protocol["tuned"] for result in (first, second, third, fourth)}) == 4
    table, published = finetune.tables(list(zip([*labels] * 2, [first, second, third, fourth], strict=True)), True)
    assert [column.title for column in table.columns] == ["Model", "colours", "others"]
    assert [row.cells[0] for row in table.sections[0].rows] == labels
    assert table.sections[0].rows[1].cells[2] == fourth.metrics[0].text()
    assert published.sections[0].rows[1].cells[:2] == ("ViT-S/16, DINO", "99.0")
    assert model.home is not None
    assert len(kept_names(model.home, "finetune")) == 2
