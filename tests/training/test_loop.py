"""`dinoscope.training.loop.train`: what a run leaves, refuses and survives."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import cv2
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from safetensors import SafetensorError
from torch import Tensor

from dinoscope import api, checkpoint, distributed
from dinoscope.cli.console import Console, TimeLeft
from dinoscope.cli.progress import PLAIN_SECONDS, ConsoleProgress
from dinoscope.cli.train import next_steps
from dinoscope.data import scan, sources
from dinoscope.data.finding import find_images
from dinoscope.data.images import pixel_limit, read
from dinoscope.data.scan import Unreadable
from dinoscope.data.sources import ImageFolder, hash_rank, image_fraction, split_images
from dinoscope.errors import UserError
from dinoscope.evaluation.online import OnlineKNN
from dinoscope.files import MEGAPIXELS_VARIABLE
from dinoscope.methods import dino
from dinoscope.text import duration
from dinoscope.training import run_folder, start
from dinoscope.training import trainer as trainer_module
from dinoscope.training.config import OptimizerConfig, RunConfig, SavingConfig
from dinoscope.training.listeners import Listener, RunStart, StepRecord
from dinoscope.training.loop import RunResult, train
from dinoscope.training.run_folder import (
    RunFolder,
    changed_settings,
    portable,
    read_config,
    read_metrics,
    read_sessions,
)
from dinoscope.training.start import read_unreadable, scanned_images, trained_on
from dinoscope.training.trainer import Trainer
from dinoscope.types import Step, StepOutput
from tests.conformance import cases
from tests.conftest import draw_picture

PER_EPOCH, TOTAL = 3, 9
"""Steps of `settings` on 24 pictures."""


def settings(data: Path, out: Path, **changes: object) -> RunConfig:
    """24 pictures: three epochs of three steps. Stochastic depth, so that the networks draw random numbers."""
    return cases.run_config("dino", data, out, **{"drop_path": 0.2, **changes})


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Watched(Listener):
    """Remembers on how many images a run is trained, and what is said of it."""

    images = 0
    facts: Mapping[str, str] = MappingProxyType({})

    def started(self, start: RunStart) -> None:
        self.images, self.facts = start.images, start.facts


def steps_kept(out: Path) -> list[int]:
    """Steps of the checkpoints that are there; each is read whole."""
    paths = sorted((out / "checkpoints").iterdir())
    steps = [checkpoint.load(path).metadata["step"] for path in paths]
    assert [path.name for path in paths] == [checkpoint.step_path(out, step).name for step in steps]
    return steps


def weights(out: Path) -> dict[str, Tensor]:
    """Tensors of the newest checkpoint: student, teacher, centre, optimiser."""
    newest = checkpoint.latest(out / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest).tensors


def results(out: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl without what depends on the clock."""
    clock = {"images_per_second", "waiting_for_data"}
    return [{name: value for name, value in line.items() if name not in clock} for line in read_metrics(out)]


def damage(path: Path) -> None:
    """Cut a picture off in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Stop(Listener):
    """Sends this process a signal as the step of this index ends."""

    def __init__(self, index: int, number: int) -> None:
        self.index, self.number = index, number

    def stepped(self, record: StepRecord) -> None:
        if record.step.index == self.index:
            os.kill(os.getpid(), self.number)


class Do(Listener):
    """Calls a function after the step of this index, and keeps what was said."""

    def __init__(self, index: int, action: Callable[[], object]) -> None:
        self.index, self.action = index, action
        self.heard: list[str] = []

    def stepped(self, record: StepRecord) -> None:
        if record.step.index == self.index:
            self.action()

    def said(self, message: str) -> None:
        self.heard.append(message)


class Crash(Do):
    """Raises ZeroDivisionError in the place of the action, and is one of those without which the run ends."""

    essential = True
    closings = 0

    def __init__(self, index: int) -> None:
        super().__init__(index, lambda: 1 // 0)

    def closed(self) -> None:
        self.closings += 1


# What a run leaves


def test_a_run_leaves_settings_metrics_log_events_checkpoints_and_an_export(picture_folder, tmp_path) -> None:
    out = tmp_path / "runs" / "first"
    config = settings(picture_folder(24), out, evaluate_every=2)
    assert train(config) == RunResult(out, TOTAL, interrupted=False)

    assert read_config(out) == config
    lines = read_metrics(out)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(TOTAL))
    assert [line["epoch"] for line in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for name in (
        "learning_rate",
        "weight_decay",
        "gradient_norm",
        "images_per_second",
        "waiting_for_data",
        "teacher_entropy",
        "kl_teacher_student",
        "center_norm",
    ):
        assert all(math.isfinite(line[name]) for line in steps), name
    assert all(0 <= line["waiting_for_data"] <= 1 for line in steps)
    assert all(0 <= line["teacher_entropy"] <= math.log(64) + 1e-4 for line in steps)
    assert steps[0]["learning_rate"] == pytest.approx(2e-2 * 8 / 256)  # no warm-up: the peak, scaled to the batch

    # every two epochs, and at the end
    evaluations = [line for line in lines if "rank_me" in line]
    assert [line["step"] for line in evaluations] == [5, 8]
    assert len(lines) == len(steps) + len(evaluations)

    assert "training vit_micro_conv8 on 24 images" in (out / "train.log").read_text()
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
    assert read_unreadable(RunFolder(out)) == {}
    assert steps_kept(out) == [TOTAL]


def test_the_export_is_the_teacher_of_the_last_checkpoint(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    train(settings(picture_folder(24), out, epochs=1))
    exported = checkpoint.load_backbone(out / "exported").state_dict()
    prefix = "method.teacher_backbone."
    teacher = {name.removeprefix(prefix): value for name, value in weights(out).items() if name.startswith(prefix)}
    assert exported.keys() == teacher.keys()
    assert all(torch.equal(exported[name], teacher[name]) for name in teacher)
    student = weights(out)["method.student_backbone.net.cls_token"]
    assert not torch.equal(student, teacher["net.cls_token"])


def test_metrics_are_logged_every_so_many_steps(picture_folder, tmp_path) -> None:
    train(settings(picture_folder(24), tmp_path / "run", log_every=4))
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [0, 4, 8]


def test_so_many_checkpoints_stay(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    train(settings(picture_folder(24), out, saving=SavingConfig(every_steps=2, keep=3)))
    assert steps_kept(out) == [6, 8, 9]


def test_listeners_are_closed_whatever_happens(picture_folder, tmp_path) -> None:
    listener = Crash(1)
    with pytest.raises(ZeroDivisionError):
        train(settings(picture_folder(24), tmp_path / "run"), listeners=[listener])
    assert listener.closings == 1


# Existing folders


def test_an_existing_run_is_refused_and_untouched(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, epochs=1)
    train(config)
    before = files(out)
    with pytest.raises(UserError, match="--resume continues it, --overwrite starts again"):
        train(config)
    assert files(out) == before


def test_overwrite_begins_again(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out)
    train(config)
    train(replace(config, epochs=1, seed=1), overwrite=True)
    assert read_config(out).seed == 1
    assert len(read_metrics(out)) == PER_EPOCH
    assert steps_kept(out) == [PER_EPOCH]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_written_to(overwrite, picture_folder, tmp_path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("four years of work")
    with pytest.raises(UserError, match="choose another --out"):
        train(settings(picture_folder(24), out), overwrite=overwrite)
    assert files(out) == {"chapter1.tex": b"four years of work"}


def test_an_empty_folder_can_be_trained_into(picture_folder, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    assert train(settings(picture_folder(8), tmp_path / "run", epochs=1)).steps == 1


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1000}, {"backbone": "vit_mikro_conv8"}, {"views": replace(cases.VIEWS, global_size=36)}]
)
def test_overwrite_with_impossible_settings_deletes_nothing(changes, picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, epochs=1)
    train(config)
    before = files(out)
    with pytest.raises(UserError):
        train(replace(config, **changes), overwrite=True)
    assert files(out) == before


@pytest.mark.parametrize("half_written", [False, True])
def test_a_kill_before_the_settings_were_written_leaves_a_folder_that_is_taken(half_written, picture_folder, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    if half_written:
        (out / ".config.json.partial-123").mkdir()
        (out / ".config.json.partial-123" / "config.json").write_text('{"vers')
    assert train(settings(picture_folder(8), out, epochs=1)).steps == 1
    assert list(out.glob(".*")) == []


def test_a_kill_before_the_first_checkpoint_leaves_a_run_that_can_be_resumed(picture_folder, tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    config = settings(picture_folder(8), whole, epochs=1)
    train(config)
    killed.mkdir()
    shutil.copy(whole / "config.json", killed)
    assert train(replace(config, out=killed), resume=True).steps == 1
    assert results(killed) == results(whole)


def test_a_kill_while_a_run_is_overwritten_leaves_one_that_can_be_overwritten(
    picture_folder, tmp_path, monkeypatch
) -> None:
    class Killed(Exception):
        pass

    def kill(path: Path, *_: object) -> None:
        raise Killed(path)

    out = tmp_path / "run"
    config = settings(picture_folder(8), out, epochs=1)
    train(config)
    with monkeypatch.context() as patches:
        patches.setattr(run_folder, "write_text", kill)
        with pytest.raises(Killed):
            train(replace(config, seed=1), overwrite=True)
    assert list(files(out)) == ["config.json"]
    assert train(replace(config, seed=1), overwrite=True).steps == 1


def test_an_existing_folder_is_refused_before_the_images_are_looked_at(picture_folder, tmp_path) -> None:
    class Never(Listener):
        def scanned(self, done: int, total: int) -> None:
            raise AssertionError("the images were looked at")

    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("four years of work")
    with pytest.raises(UserError, match="exists already"):
        train(settings(picture_folder(8), out), listeners=[Never()])


def test_an_out_within_a_file_is_refused(picture_folder, tmp_path) -> None:
    (tmp_path / "notes").write_text("")
    with pytest.raises(UserError, match=r"notes/run cannot be written: .*notes is no folder; choose another --out"):
        train(settings(picture_folder(8), tmp_path / "notes" / "run"))


@pytest.mark.parametrize(("classes", "command"), [(0, "map"), (2, "knn")])
def test_what_comes_next_can_be_copied_into_a_shell(classes, command, picture_folder, tmp_path) -> None:
    data, out = picture_folder(8, classes=classes, name="my pictures"), tmp_path / "run [1]"
    train(settings(data, out, epochs=1, evaluate_every=0))
    words = [shlex.split(line) for line in next_steps(out, data)]
    assert words[0][words[0].index("dinoscope") :][:6] == [
        "dinoscope",
        command,
        "--model",
        str(out),
        "--data",
        str(data),
    ]
    assert all(any(word.startswith(str(out)) for word in line) for line in words)


# Two processes


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_a_run_under_way_is_neither_resumed_nor_overwritten(how, link, picture_folder, tmp_path) -> None:
    """A thread of this process stands for another process: the lock does not let it in either."""
    out, latest = tmp_path / "run", tmp_path / "latest"
    latest.symlink_to(out)
    config = settings(picture_folder(8), out, epochs=2, evaluate_every=0)
    refused: list[str] = []

    def second() -> None:
        try:
            train(replace(config, out=latest if link else out), **how)
        except UserError as error:
            refused.append(str(error))

    def beside() -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    assert train(config, listeners=[Do(0, beside)]).steps == 2
    assert len(refused) == 1
    assert "another process is training in" in refused[0]
    assert len(read_metrics(out)) == 2
    assert train(replace(config, out=latest if link else out), **how).steps == 2  # it has ended now


def test_a_checkpoint_of_another_run_is_refused(picture_folder, tmp_path) -> None:
    data = picture_folder(24)
    for seed in (0, 1):
        config = settings(data, tmp_path / f"run{seed}", seed=seed, evaluate_every=0)
        train(config, listeners=[Stop(seed, signal.SIGTERM)])
    stranger = checkpoint.latest(tmp_path / "run1" / "checkpoints")
    assert stranger is not None
    shutil.copy(stranger, tmp_path / "run0" / "checkpoints")
    before = files(tmp_path / "run0" / "checkpoints")
    with pytest.raises(UserError, match=r"belongs to another run than config\.json \(seed: 1 -> 0\)"):
        train(replace(config, seed=0, out=tmp_path / "run0"), resume=True)
    assert files(tmp_path / "run0" / "checkpoints") == before


# Resuming


def test_a_run_resumes_from_any_folder(picture_folder, tmp_path, monkeypatch) -> None:
    picture_folder(24)
    monkeypatch.chdir(tmp_path)
    config = settings(Path("pictures"), Path("run"), evaluate_every=0)
    train(config, listeners=[Stop(1, signal.SIGTERM)])
    assert train(config, resume=True, listeners=[Stop(3, signal.SIGTERM)]).steps == 4
    monkeypatch.chdir("/")
    saved = read_config(tmp_path / "run")
    assert saved.data == tmp_path / "pictures"
    assert train(saved, resume=True).steps == TOTAL


def test_the_initial_model_is_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings(Path("pictures"), Path("run"), init="model")
    assert portable(config).init == str(tmp_path / "model")
    for name in ("dino_vits16", "random:vit_micro_conv8"):
        assert portable(replace(config, init=name)).init == name
    assert changed_settings(config, portable(config)) == []


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(picture_folder, tmp_path) -> None:
    data, whole, out = picture_folder(24), tmp_path / "whole", tmp_path / "run"
    config = settings(data, out, saving=SavingConfig(every_steps=2, keep=9))
    train(replace(config, out=whole))
    train(config, listeners=[Stop(4, signal.SIGTERM)])
    assert steps_kept(out) == [2, 4, 5]
    newest = checkpoint.step_path(out / "checkpoints", 5)
    *rest, last = newest.read_bytes()
    newest.write_bytes(bytes([*rest, last ^ 1]))

    listener = Do(99, lambda: None)
    assert train(config, resume=True, listeners=[listener]).steps == TOTAL
    earlier = checkpoint.step_path(out / "checkpoints", 4)
    assert len(listener.heard) == 1
    assert str(newest) in listener.heard[0]
    assert str(earlier) in listener.heard[0]
    aside = newest.with_name(f"{newest.name}.damaged")
    assert aside.is_file()
    aside.unlink()
    assert steps_kept(out) == [2, 4, 6, 8, 9]
    ours, theirs = weights(out), weights(whole)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert results(out) == results(whole)


def test_a_run_whose_checkpoints_are_all_damaged_is_left_alone(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, evaluate_every=0)
    train(config, listeners=[Stop(1, signal.SIGTERM)])
    newest = checkpoint.step_path(out / "checkpoints", 2)
    newest.write_bytes(b"")
    with pytest.raises(UserError, match=r"No other checkpoint in .* is whole"):
        train(config, resume=True)
    assert newest.is_file()


def test_resuming_what_is_no_run_is_refused(picture_folder, tmp_path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        train(settings(picture_folder(24), tmp_path / "run"), resume=True)
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_settings_is_refused_and_names_them(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, epochs=1)
    train(config)
    before = files(out)
    other = replace(config, seed=3, method=replace(config.method, student_temperature=0.2))
    with pytest.raises(UserError) as error:
        train(other, resume=True)
    assert "seed: 0 -> 3" in str(error.value)
    assert "method.student_temperature: 0.1 -> 0.2" in str(error.value)
    assert "backbone" not in str(error.value)
    assert files(out) == before


def test_a_run_on_half_of_the_images(picture_folder, tmp_path) -> None:
    """Fewer steps, on the same images whatever the seed; to be resumed with another share it refuses."""
    data = picture_folder(33)
    parts = []
    for seed in (0, 1):
        config = settings(data, tmp_path / f"run{seed}", fraction=0.5, seed=seed)
        watched = Watched()
        assert train(config, listeners=[watched]).steps == TOTAL * 2 // 3
        parts.append(watched.images)
        newest = checkpoint.latest(config.out / "checkpoints")
        assert newest is not None
        part = image_fraction(find_images(data), 0.5)
        assert checkpoint.load(newest).metadata["data_fingerprint"] == part.fingerprint()
    assert parts == [16, 16]
    with pytest.raises(UserError, match=r"fraction: 0\.5 -> 1\.0"):
        train(settings(data, tmp_path / "run0"), resume=True)


def test_a_split_trains_on_the_share_alone_and_measures_on_the_rest(picture_folder, tmp_path) -> None:
    data, pattern = picture_folder(40, classes=2), r"(\d)\.png"
    config = settings(data, tmp_path / "run", group=pattern, split=0.6)
    knn = OnlineKNN()
    train(config, listeners=[watched := Watched(), knn])
    share, rest = split_images(find_images(data).grouped_by(pattern), 0.6)
    assert (watched.images, knn.gallery, knn.queries) == (len(share), share, rest)
    assert not set(share.groups) & set(rest.groups)
    newest = checkpoint.latest(config.out / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).metadata["data_fingerprint"] == share.fingerprint()
    with pytest.raises(UserError, match=r"split: 0\.6 -> None"):
        train(settings(data, config.out, group=pattern), resume=True)
    (result,) = api.evaluate(str(config.out), "knn", data, device="cpu", workers=0).results
    assert (result.protocol["gallery_images"], result.protocol["query_images"]) == (len(share), len(rest))


def test_splits_that_cannot_be_made_are_refused(picture_folder, tmp_path) -> None:
    with pytest.raises(UserError, match=r"--split must be above 0 and below 1, not 1\.5"):
        train(settings(picture_folder(8), tmp_path / "run", split=1.5))
    picture_folder(8, split="train", name="split")
    data = picture_folder(8, split="val", name="split")
    with pytest.raises(UserError, match="has a val split: leave out --split"):
        train(settings(data, tmp_path / "run", split=0.5))
    with pytest.raises(UserError, match="finds no group"):
        train(settings(picture_folder(8), tmp_path / "run", group="(x)"))


def test_a_fraction_is_of_the_images_that_can_be_read(picture_folder, tmp_path) -> None:
    data = picture_folder(30)
    (data / "0003.png").write_bytes(b"no picture")
    part = trained_on(settings(data, tmp_path / "run", fraction=0.5), find_images(data), {"0003.png"})
    assert len(part) == round(0.5 * 29)
    assert "0003.png" not in part.paths


@pytest.mark.parametrize("change", ["renamed", "added", "resized"])
def test_resuming_on_other_images_is_refused(change, picture_folder, tmp_path) -> None:
    data, out = picture_folder(24), tmp_path / "run"
    config = settings(data, out)
    train(config, listeners=[Stop(2, signal.SIGTERM)])
    before = files(out / "checkpoints")
    first = data / "0000.png"
    if change == "renamed":
        first.rename(data / "9999.png")
    else:
        (data / "9999.png" if change == "added" else first).write_bytes((data / "0001.png").read_bytes())
    with pytest.raises(UserError, match="not those that the run began with"):
        train(config, resume=True)
    assert files(out / "checkpoints") == before


def test_images_put_back_are_those_that_the_run_began_with(picture_folder, tmp_path) -> None:
    """A file that is damaged while the run goes on does not change what its checkpoints say of the data."""
    data, out = picture_folder(24), tmp_path / "run"
    config = settings(data, out)
    victim = data / "0005.png"
    whole = victim.read_bytes()
    train(config, listeners=[Do(0, lambda: damage(victim)), Stop(4, signal.SIGTERM)])
    victim.write_bytes(whole)
    assert train(config, resume=True) == RunResult(out, TOTAL, interrupted=False)


def test_stopped_and_resumed_is_the_uninterrupted_run(picture_folder, tmp_path) -> None:
    """Stopped twice in mid-epoch, and with 0, 2 and 1 loader processes in turn: bit for bit the same."""
    data = picture_folder(24)
    train(settings(data, tmp_path / "whole"))
    out = tmp_path / "parts"
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    part = train(settings(data, out), listeners=[Stop(1, signal.SIGTERM)])
    assert part == RunResult(out, 2, interrupted=True)
    assert steps_kept(out) == [2]
    assert not (out / "exported").exists()

    part = train(settings(data, out, workers=2), resume=True, listeners=[Stop(4, signal.SIGINT)])
    assert part == RunResult(out, 5, interrupted=True)
    assert steps_kept(out) == [2, 5]

    part = train(settings(data, out, workers=1), resume=True)
    assert part == RunResult(out, TOTAL, interrupted=False)

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    whole, parts = weights(tmp_path / "whole"), weights(out)
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert len(results(out)) == TOTAL
    assert results(out) == results(tmp_path / "whole")
    name = checkpoint.BACKBONE_WEIGHTS
    assert (out / "exported" / name).read_bytes() == (tmp_path / "whole" / "exported" / name).read_bytes()


def test_rank_me_is_the_same_after_a_resume_and_however_the_batch_is_cut(picture_folder, tmp_path) -> None:
    """A checkpoint holds the features that it rests on; one from before they were kept is resumed without them."""
    data = picture_folder(24)

    def ranks(out: Path) -> list[float]:
        return [line["rank_me"] for line in read_metrics(out) if "rank_me" in line]

    train(settings(data, tmp_path / "whole", evaluate_every=1))
    wanted = ranks(tmp_path / "whole")
    assert len(wanted) == TOTAL / PER_EPOCH
    train(settings(data, tmp_path / "cut", evaluate_every=1, accumulate=4, drop_path=0.0, precision="fp32"))
    train(settings(data, tmp_path / "uncut", evaluate_every=1, drop_path=0.0, precision="fp32"))
    assert ranks(tmp_path / "cut") == pytest.approx(ranks(tmp_path / "uncut"), rel=1e-4)

    config = settings(data, tmp_path / "parts", evaluate_every=1)
    train(config, listeners=[Stop(4, signal.SIGTERM)])
    shutil.copytree(config.out, tmp_path / "older")
    train(config, resume=True)
    assert ranks(config.out) == wanted

    older = checkpoint.latest(tmp_path / "older" / "checkpoints") or pytest.fail("no checkpoint")
    found = checkpoint.load(older)
    tensors = {name: value for name, value in found.tensors.items() if not name.startswith("window.")}
    assert len(tensors) < len(found.tensors)
    checkpoint.save(older, tensors, found.metadata)
    assert train(replace(config, out=tmp_path / "older"), resume=True).steps == TOTAL
    assert ranks(tmp_path / "older")[-1] != wanted[-1]


def test_steps_made_after_the_last_checkpoint_are_made_again(picture_folder, tmp_path) -> None:
    """A crash, not a stop: lines of metrics.jsonl beyond the checkpoint do not stay twice."""
    data, out = picture_folder(24), tmp_path / "run"
    config = settings(data, out, saving=SavingConfig(every_steps=2))

    with pytest.raises(ZeroDivisionError):
        train(config, listeners=[Crash(4)])
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a kill cut this line off
    train(config, resume=True)
    train(settings(data, tmp_path / "whole"))
    assert results(out) == results(tmp_path / "whole")
    assert [
        name for name, value in weights(out).items() if not torch.equal(value, weights(tmp_path / "whole")[name])
    ] == []


@pytest.mark.parametrize("warned", [False, True])
def test_resuming_with_other_micro_batches_is_warned_of_where_batch_norm_sees_them(
    warned, picture_folder, tmp_path
) -> None:
    method = replace(cases.SETTINGS["dino"], head_batch_norm=warned)
    config = settings(picture_folder(24), tmp_path / "run", saving=SavingConfig(every_steps=2), method=method)
    stop = Stop(1, signal.SIGINT)
    assert train(config, listeners=[stop]).interrupted
    listener = Do(-1, lambda: None)
    assert train(replace(config, accumulate=2), resume=True, listeners=[listener]).steps == TOTAL
    said = [message for message in listener.heard if "--accumulate 2 but the run began with 1" in message]
    assert len(said) == warned


def test_other_seeds_are_other_runs(picture_folder, tmp_path) -> None:
    """The comparisons above could fail: equality is not a property of any two runs."""
    data = picture_folder(24)
    for seed in (0, 1):
        train(settings(data, tmp_path / f"{seed}", seed=seed, epochs=1))
    assert results(tmp_path / "0") != results(tmp_path / "1")


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, epochs=1)
    train(config)
    before = weights(out), read_metrics(out)
    assert train(config, resume=True) == RunResult(out, PER_EPOCH, interrupted=False)
    assert all(torch.equal(value, before[0][name]) for name, value in weights(out).items())
    assert read_metrics(out) == before[1]


def test_a_second_ctrl_c_does_not_wait_for_the_step(picture_folder, tmp_path) -> None:
    """A child process: its step never ends, the first SIGINT is collected, the second one ends it."""
    data = picture_folder(8)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(7)

    child = os.fork()
    if child == 0:
        train(settings(data, tmp_path / "run"), listeners=[Do(0, twice)])
        os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)]
)
def test_requests_to_stop_may_come_twice(numbers, picture_folder, tmp_path, monkeypatch) -> None:
    """From a launcher and the system, or a rule and a person: within one step, and while the checkpoint is written."""
    out, save = tmp_path / "run", Trainer.save

    def interrupted(trainer: Trainer, path: Path, snapshot: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(trainer, path)

    monkeypatch.setattr(Trainer, "save", interrupted)
    part = train(settings(picture_folder(24), out), listeners=[Stop(1, number) for number in numbers])
    assert part == RunResult(out, 2, interrupted=True)
    assert steps_kept(out) == [2]


# Unreadable files


def test_one_broken_file_of_thirty_is_left_out_and_listed(picture_folder, tmp_path) -> None:
    data, out = picture_folder(30), tmp_path / "run"
    damage(data / "0013.png")
    watched = Watched()
    result = train(settings(data, out, batch_size=10, epochs=1), listeners=[watched])
    assert result.steps == 2  # 29 images
    assert watched.facts["left out"] == f"1 file that cannot be read is named in {out / 'unreadable.json'}"
    assert list(read_unreadable(RunFolder(out))) == ["0013.png"]
    assert all(read_unreadable(RunFolder(out)).values())
    assert "on 29 images" in (out / "train.log").read_text()


def test_every_process_leaves_out_the_same_files_whatever_they_are_called(picture_folder, tmp_path) -> None:
    names = [b"a\tb.png", b"a\nb.png", b"a\rb.png", "a\x85b.png".encode(), "a\u2028b.png".encode(), b"a\xffb.png"]
    data, out = picture_folder(120), tmp_path / "run"
    for name in names:
        (data / os.fsdecode(name)).write_bytes(b"no picture")
    config = settings(data, out, batch_size=60, epochs=1, evaluate_every=0)
    train(config)
    unreadable = read_unreadable(RunFolder(out))
    assert set(unreadable) == set(map(os.fsdecode, names))
    others = trained_on(config, find_images(data), set(unreadable))  # as the processes beside the main one do
    newest = checkpoint.latest(out / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).metadata["data_fingerprint"] == others.fingerprint()


def test_the_list_of_an_earlier_version_is_read_until_it_is_replaced(picture_folder, tmp_path) -> None:
    data, out = picture_folder(24), tmp_path / "run"
    config = settings(data, out, epochs=1)
    train(config)
    (out / "unreadable.json").unlink()
    (out / "unreadable.txt").write_text("a/1.png\tempty file\na\u2028b.png\ttruncated\n", encoding="utf-8")
    assert read_unreadable(RunFolder(out)) == {"a/1.png": "empty file", "a\u2028b.png": "truncated"}
    train(config, resume=True)
    assert read_unreadable(RunFolder(out)) == {"a/1.png": "empty file", "a\u2028b.png": "truncated"}
    assert not (out / "unreadable.txt").exists()


@pytest.mark.parametrize("text", ["{", "[1]", '{"a.png": 1}'])
def test_a_damaged_list_is_named(text, tmp_path) -> None:
    (tmp_path / "unreadable.json").write_text(text)
    with pytest.raises(UserError, match=r"unreadable\.json"):
        read_unreadable(RunFolder(tmp_path))


def test_processes_with_other_images_or_at_another_step_are_refused(picture_folder, tmp_path, monkeypatch) -> None:
    """Another process, which holds other numbers: the largest of a value, and of its negative, is then another one."""
    config = settings(picture_folder(24), tmp_path / "run")
    train(config, listeners=[Stop(1, signal.SIGTERM)])
    monkeypatch.setattr(distributed, "max_reduce", lambda value: value + (value > 40))
    with pytest.raises(UserError, match=r"do not find the same images below .*pictures \(this one finds 24\)"):
        train(config, resume=True)
    monkeypatch.setattr(distributed, "max_reduce", lambda value: value + (value == 2))
    with pytest.raises(UserError, match="do not find the same checkpoints"):
        train(config, resume=True)


def test_too_many_broken_files_stop_it_before_anything_is_written(picture_folder, tmp_path) -> None:
    data, out = picture_folder(30), tmp_path / "run"
    for number in (3, 13, 23):
        damage(data / f"{number:04d}.png")
    with pytest.raises(UserError, match=r"3 of 30 images cannot be read.*0003\.png"):
        train(settings(data, out))
    assert not out.exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "change", [damage, Path.unlink, lambda path: path.write_bytes(path.with_name("0004.png").read_bytes() + b"\0")]
)
def test_an_image_that_changes_during_a_run_is_said(change, workers, picture_folder, tmp_path) -> None:
    data, out = picture_folder(24), tmp_path / "run"

    class Change(Listener):
        said_of: list[str] = []  # noqa: RUF012 (one object)

        def started(self, start: RunStart) -> None:
            change(data / "0003.png")

        def said(self, message: str) -> None:
            self.said_of.append(message)

    listener = Change()
    assert train(settings(data, out, workers=workers), listeners=[listener]) == RunResult(out, 9, interrupted=False)
    log = (out / "train.log").read_text()
    assert log.count("0003.png was deleted, damaged or replaced during the run") == 3  # once an epoch
    assert [f"epoch {epoch}: 1 of 24 images" in "".join(listener.said_of) for epoch in (1, 2, 3)] == [True] * 3
    assert len(read_metrics(out)) == TOTAL


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("lost", [2, 24])
def test_too_many_images_that_change_end_the_run(lost, workers, picture_folder, tmp_path) -> None:
    """The limit is that of the start; what was learned is kept."""
    data, out = picture_folder(24), tmp_path / "run"

    class Delete(Listener):
        def started(self, start: RunStart) -> None:
            for path in sorted(data.iterdir())[:lost]:
                path.unlink()

    with pytest.raises(UserError, match=r"(2|none) of (the )?24 images.*(--resume|no checkpoint)") as e:
        train(settings(data, out, workers=workers), listeners=[Delete()])
    assert "\n" not in str(e.value)
    assert multiprocessing.active_children() == []


def test_only_the_share_that_is_used_is_looked_at(picture_folder, tmp_path, monkeypatch) -> None:
    """It is the share of the readable images: the next in its order stands in for each that cannot be read."""
    data, out = picture_folder(40), tmp_path / "run"
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    order = sorted((f"{number:04d}.png" for number in range(40)), key=lambda path: hash_rank(0, path))
    for name in (order[2], *order[-4:]):  # one within, four beyond: over 5 % of all
        damage(data / name)
    decoded: list[str] = []
    monkeypatch.setattr(sources, "read", lambda path, **how: decoded.append(path.name) or read(path, **how))
    config = settings(data, out, fraction=0.25, max_unreadable=0.1)
    images, unreadable, _ = scanned_images(config, lambda done, total: None)
    assert list(images.paths) == sorted(set(order[:11]) - {order[2]})  # round(0.25 * 39) images
    assert [fault.path for fault in unreadable] == [order[2]]
    assert sorted(decoded) == sorted(order[:11])
    with pytest.raises(UserError, match=r"1 of 10 images cannot be read, more than the 5%.*--max-unreadable 0\.1"):
        scanned_images(replace(config, max_unreadable=0.05), lambda done, total: None)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_a_run_that_looked_at_the_whole_folder_resumes(fraction, picture_folder, tmp_path, monkeypatch) -> None:
    """As the first edition did: files beyond the share count among those that it left out."""
    data, out = picture_folder(40), tmp_path / "run"
    order = sorted((f"{number:04d}.png" for number in range(40)), key=lambda path: hash_rank(0, path))
    damage(data / order[-1])
    damage(data / order[-2])
    config = settings(data, out, fraction=fraction, epochs=2)

    def whole_folder(config: RunConfig, progress: object, source: None) -> tuple[ImageFolder, tuple[Unreadable, ...]]:
        found = find_images(config.data)
        unreadable = scan.scan(found).unreadable
        return trained_on(config, found, {fault.path for fault in unreadable}), unreadable, config

    with monkeypatch.context() as patches:
        patches.setattr(start, "scanned_images", whole_folder)
        assert train(config, listeners=[Stop(0, signal.SIGINT)]).interrupted
    listed = read_unreadable(RunFolder(out))
    assert len(listed) == 2
    watched = Watched()
    assert not train(config, resume=True, listeners=[watched]).interrupted
    assert watched.images == round(38 * fraction)
    assert read_unreadable(RunFolder(out)) == listed


def test_a_run_from_before_jfif_was_known_resumes(picture_folder, tmp_path, monkeypatch) -> None:
    data, out = picture_folder(24), tmp_path / "run"
    (data / "late.jfif").write_bytes(cv2.imencode(".jpg", draw_picture(99))[1].tobytes())
    config = settings(data, out, epochs=2, fraction=0.9)
    with monkeypatch.context() as patches:
        patches.setattr(sources, "extensions", lambda: (".png",))
        assert train(config, listeners=[Stop(0, signal.SIGINT)]).interrupted
    watched = Watched()
    assert not train(config, resume=True, listeners=[watched]).interrupted
    assert watched.images == 22  # of 24


@pytest.mark.parametrize(("level", "images"), [("full", 23), ("headers", 24)])
def test_a_scan_of_headers_misses_damaged_pixels(level, images, picture_folder, tmp_path) -> None:
    data = picture_folder(24)
    damage(data / "0003.png")
    watched = Watched()
    train(settings(data, tmp_path / "run", scan=level, epochs=1), listeners=[watched])
    assert watched.images == images


def test_what_is_passed_over_is_said(picture_folder, tmp_path) -> None:
    data = picture_folder(8)
    for name in ("1.PSD", "2.psd"):
        (data / name).touch()
    with pytest.raises(UserError, match=r"more than the 8 readable images \(passed over: 2 \.psd\): lower it"):
        train(settings(data, tmp_path / "run", batch_size=9))
    watched = Watched()
    train(settings(data, tmp_path / "run", epochs=1), listeners=[watched])
    assert watched.facts["passed over"] == "2 .psd"


@pytest.mark.parametrize("limit", [-0.1, 1.1, math.nan])
def test_a_limit_that_is_no_share_is_refused(limit, picture_folder, tmp_path) -> None:
    with pytest.raises(UserError, match=r"--max-unreadable must be (from 0 to 1|a finite number)"):
        train(settings(picture_folder(8), tmp_path / "run", max_unreadable=limit))


def test_a_run_within_its_data_trains_and_resumes(picture_folder, monkeypatch) -> None:
    """Its pictures, and those of a second run, are not data; also from the folder itself."""
    data = picture_folder(24, classes=2)
    monkeypatch.chdir(data)
    config = settings(Path(), Path("runs/mine"), evaluate_every=1)
    watched = Watched()
    assert api.train(config, listeners=[Stop(3, signal.SIGINT)]).interrupted
    assert list(data.glob("runs/mine/attention/*.png"))
    assert not api.train(config, resume=True, listeners=[watched]).interrupted
    assert watched.images == 24
    api.train(replace(config, out=Path("runs/second"), epochs=1), listeners=[watched])
    assert (watched.images, read_sessions(data / "runs/second")[0].classes) == (24, 2)


def test_a_log_file_is_not_empty_while_images_are_checked(monkeypatch) -> None:
    """A line once the images are found, and another when time has passed; while they are listed, if it takes long."""
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    progress = ConsoleProgress(console)
    for done, total in ((0, 0), (0, 3000), (1500, 3000)):
        progress.scanned(done, total)
    assert console.file.getvalue() == "checking 3000 images\n"
    progress.printed -= PLAIN_SECONDS + 1
    progress.scanned(2000, 3000)
    assert console.file.getvalue().endswith("\nchecking 3000 images: 2000 done\n")
    monkeypatch.setattr("dinoscope.cli.progress.LISTING_SECONDS", 0)
    slow = ConsoleProgress(Console(file=io.StringIO(), force_terminal=False, width=200))
    slow.scanned(0, 0)
    slow.listing.join()
    assert slow.console.file.getvalue() == "listing the images\n"


def test_the_time_left_is_in_hours_and_minutes() -> None:
    """In the lines of a log, and in the bar of a terminal."""
    progress = ConsoleProgress(Console(file=io.StringIO(), force_terminal=False, width=200))
    names = ("images_per_second", "waiting_for_data", "loss", "learning_rate")
    progress.begun = time.monotonic() - 7.5
    progress.printed -= PLAIN_SECONDS + 1
    progress.stepped(StepRecord(Step(0, 1001, 91), dict.fromkeys(names, 0.5)))
    assert "epoch 1/11  step 1/1001  2 h 05 min left  0 im/s" in progress.console.file.getvalue()
    progress.tried(0, 200)
    assert progress.console.file.getvalue().endswith("timing steps, for about 3 min 20 s\n")
    now = iter(range(0, 2000, 20))
    bar = Progress(console=progress.console, get_time=lambda: float(next(now)))
    bar.add_task("training", total=100)
    (task,) = bar.tasks
    assert TimeLeft().render(task).plain == ""
    for done in (10, 20):
        bar.update(task.id, completed=done)
    assert task.time_remaining
    assert TimeLeft().render(task).plain == f"{duration(task.time_remaining)} left"


# Failures on the way


@pytest.mark.parametrize(
    "failure", [SafetensorError("No space left on device"), OSError(28, "No space left on device")]
)
def test_a_full_disk_leaves_the_earlier_checkpoint_and_goes_on(failure, picture_folder, tmp_path, monkeypatch) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, saving=SavingConfig(every_steps=2, keep=9))
    save_file = checkpoint.save_file

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise failure

    def fill() -> None:
        monkeypatch.setattr(checkpoint, "save_file", full)

    def free() -> None:
        monkeypatch.setattr(checkpoint, "save_file", save_file)

    listener = Do(2, fill)
    assert train(config, listeners=[listener, Do(4, free)]).steps == TOTAL
    assert steps_kept(out) == [2, 6, 8, 9]  # 4 was not written, and left nothing behind
    assert "the checkpoint after step 4 could not be written" in (out / "train.log").read_text()
    assert ["No space left" in message for message in listener.heard] == [True]


def test_a_full_disk_at_the_end_is_the_persons_to_mend(picture_folder, tmp_path, monkeypatch) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, saving=SavingConfig(every_steps=4))
    save_file = checkpoint.save_file

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*--resume"):
        train(config, listeners=[Do(8, lambda: monkeypatch.setattr(checkpoint, "save_file", full))])
    assert steps_kept(out) == [8]  # 4 made room, but not enough
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    assert train(config, resume=True).steps == TOTAL
    assert steps_kept(out) == [8, 9]


def test_a_full_disk_takes_the_place_of_the_oldest_checkpoint(picture_folder, tmp_path, monkeypatch) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, saving=SavingConfig(every_steps=2))
    save_file = checkpoint.save_file

    def room_for_two(tensors: object, path: Path, metadata: object) -> None:
        if len(list((out / "checkpoints").glob("step-*"))) >= 2:
            raise SafetensorError("No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", room_for_two)
    assert train(config).steps == TOTAL
    assert steps_kept(out) == [9]  # the export needed room too
    assert checkpoint.load_backbone(out / "exported")


def moved(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))


@pytest.mark.parametrize("action", [moved, shutil.rmtree])
def test_a_folder_that_is_gone_is_made_again_for_the_weights(action, picture_folder, tmp_path) -> None:
    data, out = picture_folder(24), tmp_path / "run"
    config = settings(data, out, epochs=1, saving=SavingConfig(every_steps=1))
    with pytest.raises(UserError, match=r"moved or deleted.*step-000000002\.safetensors is whole: --resume"):
        train(config, listeners=[Do(1, lambda: action(out))])
    assert steps_kept(out) == [2]
    assert train(config, resume=True).steps == PER_EPOCH
    assert [line["step"] for line in results(out)] == [2]


def test_a_folder_that_cannot_be_made_again_is_told(picture_folder, tmp_path) -> None:
    out = tmp_path / "runs" / "run"

    def replace_by_a_file() -> None:
        shutil.rmtree(out.parent)
        out.parent.write_text("")

    with pytest.raises(UserError, match=r"moved or deleted.*There is no checkpoint to continue from"):
        train(settings(picture_folder(24), out), listeners=[Do(4, replace_by_a_file)])


def test_checkpoints_that_are_gone_are_not_called_whole(picture_folder, tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "run"
    config = settings(picture_folder(24), out, saving=SavingConfig(every_steps=2))

    def lose() -> None:
        shutil.rmtree(out / "checkpoints")
        monkeypatch.setattr(checkpoint, "save_file", full)

    with pytest.raises(UserError, match="There is no checkpoint to continue from"):
        train(config, listeners=[listener := Do(3, lose)])
    assert "there is no earlier one" in listener.heard[0]


def fail(step: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the error in the step of this index, behind the backward pass."""
    clip, calls = trainer_module.clip_each, iter(range(TOTAL))

    def clip_or_fail(*given: object) -> object:
        if next(calls) == step:
            raise error
        return clip(*given)

    monkeypatch.setattr(trainer_module, "clip_each", clip_or_fail)


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("a fault"), RuntimeError("can't allocate memory")])
def test_whatever_ends_a_run_the_weights_are_saved_and_the_loader_ends(
    error, picture_folder, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "run"
    fail(2, error, monkeypatch)
    with pytest.raises((UserError, ZeroDivisionError)) as raised:
        train(settings(picture_folder(24), out, workers=1))
    told = "".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
    assert "step-000000002.safetensors is whole: --resume" in told
    assert "memory is exhausted" in told or raised.value is error
    assert multiprocessing.active_children() == []
    assert steps_kept(out) == [2]


@pytest.mark.slow
def test_a_step_that_failed_leaves_no_trace_in_batch_norm(picture_folder, tmp_path, monkeypatch) -> None:
    """Its forward pass has moved the running statistics, which the checkpoint must not hold."""
    data, out = picture_folder(24), tmp_path / "run"
    changes = {"backbone": "resnet_micro", "drop_path": 0.0, "epochs": 1}
    with monkeypatch.context() as patches:
        fail(1, ZeroDivisionError(), patches)
        with pytest.raises(ZeroDivisionError):
            train(settings(data, out, **changes))
    assert steps_kept(out) == [1]
    assert train(settings(data, out, **changes), resume=True).steps == PER_EPOCH
    train(settings(data, tmp_path / "whole", **changes))
    assert results(out) == results(tmp_path / "whole")
    assert all(torch.equal(value, weights(tmp_path / "whole")[name]) for name, value in weights(out).items())


@pytest.mark.parametrize("fault", ["in the update", "weights"])
def test_weights_that_are_not_whole_are_not_saved(fault, picture_folder, tmp_path, monkeypatch) -> None:
    after_step, out = dino.DINO.after_step, tmp_path / "run"

    def fail(method: dino.DINO, step: Step, output: StepOutput) -> None:
        after_step(method, step, output)
        if step.index == 4 and fault == "weights":
            method.center.fill_(math.nan)
        if step.index == 4 and fault == "in the update":
            raise ZeroDivisionError

    monkeypatch.setattr(dino.DINO, "after_step", fail)
    config = settings(picture_folder(24), out, saving=SavingConfig(every_steps=2), log_every=9)
    with pytest.raises((ZeroDivisionError, UserError)) as error:
        train(config)
    told = "".join([str(error.value), *getattr(error.value, "__notes__", [])])
    assert "step-000000004.safetensors is whole: --resume" in told
    assert steps_kept(out) == [2, 4]


def test_a_loader_process_that_is_killed_ends_the_run_in_one_line(picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    earlier = set(multiprocessing.active_children())  # of other tests
    kill = Do(2, lambda: next(child for child in multiprocessing.active_children() if child not in earlier).kill())
    with pytest.raises(UserError, match=r"a loader process was killed \(signal 9\).*is whole: --resume") as error:
        train(settings(picture_folder(24), out, workers=2, epochs=30), listeners=[kill])
    assert "\n" not in str(error.value)
    assert set(multiprocessing.active_children()) <= earlier
    assert steps_kept(out) != []


def test_a_stop_does_not_wait_for_images(picture_folder, tmp_path, monkeypatch) -> None:
    """The storage hangs: SIGTERM comes while the main process waits for a batch."""
    out, images = tmp_path / "run", iter(range(16))

    def hang(path: Path, **how: object) -> object:
        if next(images, None) is None:
            time.sleep(3600)
        return read(path, **how)

    monkeypatch.setattr(sources, "read", hang)
    stop = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
    part = train(settings(picture_folder(24), out, workers=1, scan="headers"), listeners=[Do(1, stop.start)])
    assert part == RunResult(out, 2, interrupted=True)
    assert steps_kept(out) == [2]
    assert multiprocessing.active_children() == []


def test_a_run_of_version_0_1_resumes_in_any_folder(picture_folder, tmp_path, monkeypatch) -> None:
    """It kept the path of its initial model as it was given, relative to a folder that nobody knows any more."""
    data, out = picture_folder(24).absolute(), tmp_path / "run"
    train(settings(data, tmp_path / "model", epochs=1))
    monkeypatch.chdir(tmp_path)
    train(settings(data, out, init="model"), listeners=[Stop(0, signal.SIGTERM)])
    file = out / "config.json"
    file.write_text(file.read_text().replace(json.dumps(str(tmp_path / "model")), '"model"'))
    for index, place in enumerate((tmp_path / "model", data), start=1):
        monkeypatch.chdir(place)
        assert train(read_config(out), resume=True, listeners=[Stop(index, signal.SIGTERM)]).steps == index + 1


def test_an_observer_that_fails_is_logged_and_the_run_goes_on(picture_folder, tmp_path) -> None:
    """Whatever it fails at; what comes with every step is logged once."""

    class Failing(Listener):
        def __getattribute__(self, name: str) -> object:
            if name in vars(Listener) and callable(vars(Listener)[name]) and not name.startswith("_"):
                raise RuntimeError(f"no {name}")
            return super().__getattribute__(name)

    out, watched = tmp_path / "run", Watched()
    config = settings(picture_folder(24), out, epochs=1, evaluate_every=1)
    assert train(config, listeners=[Failing(), watched]) == RunResult(out, PER_EPOCH, interrupted=False)
    assert watched.images == 24
    log = (out / "train.log").read_text()
    for name in ("stepped", "logged", "evaluate"):
        assert log.count(f"Failing failed, and the run continues: RuntimeError: no {name}\n") == 1
    bare = tmp_path / "bare"
    train(replace(config, out=bare))
    assert all(torch.equal(value, weights(bare)[name]) for name, value in weights(out).items())


def test_a_checkpoint_beyond_the_last_step_is_refused(picture_folder, tmp_path) -> None:
    """It was answered with "stopped, go on with --resume", again and again."""
    out = tmp_path / "run"
    config = settings(picture_folder(24), out)
    train(config)
    saved = checkpoint.load(checkpoint.step_path(out / "checkpoints", TOTAL))
    beyond = checkpoint.step_path(out / "checkpoints", TOTAL + 3)
    checkpoint.save(beyond, saved.tensors, saved.metadata | {"step": TOTAL + 3})
    with pytest.raises(UserError, match=rf"{beyond.name} is of step 12, but this run ends after 9 steps: move it away"):
        train(config, resume=True)
    beyond.unlink()
    assert train(config, resume=True) == RunResult(out, TOTAL, interrupted=False)


def test_a_stop_whose_checkpoint_cannot_be_written_says_so(picture_folder, tmp_path, monkeypatch) -> None:
    """It must not look as if the run could go on from the step at which it was stopped."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "run"
    config = settings(picture_folder(24), out, saving=SavingConfig(every_steps=2))
    fill = Do(2, lambda: monkeypatch.setattr(checkpoint, "save_file", full))
    with pytest.raises(UserError, match="No space left on device"):
        train(config, listeners=[fill, Stop(2, signal.SIGTERM)])
    assert steps_kept(out) == [2]


def test_an_export_that_cannot_be_written_is_the_persons_to_mend(picture_folder, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "export_backbone", full)
    out = tmp_path / "run"
    with pytest.raises(UserError, match="No space left on device"):
        train(settings(picture_folder(24), out, epochs=1))
    assert steps_kept(out) == [PER_EPOCH]


def poisoned(poison: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """What replaces the loss by `poison(loss, student logits)`."""
    losses = dino.LOSSES_OF_PROBABILITIES
    loss = losses["cross_entropy"]
    context = pytest.MonkeyPatch()
    context.setitem(losses, "cross_entropy", lambda student, *rest: poison(loss(student, *rest), student))
    return context.undo


@pytest.mark.parametrize(
    ("poison", "words"),
    [
        (lambda loss, student: loss * math.nan, "the loss turned nan at step 5"),
        (lambda loss, student: loss + math.inf, "the loss turned inf at step 5"),
        # a finite loss whose gradient is not: the root's slope at 0
        (lambda loss, student: loss + (student - student).sum().sqrt(), "gradient.*at step 5"),
    ],
    ids=["nan", "infinite", "gradient"],
)
def test_what_is_not_finite_stops_the_run_and_spares_the_checkpoint(poison, words, picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, saving=SavingConfig(every_steps=1, keep=2))
    undo: list[Callable[[], None]] = []
    try:
        with pytest.raises(UserError, match=words):
            train(config, listeners=[Do(4, lambda: undo.append(poisoned(poison)))])
    finally:
        undo[0]()
    assert steps_kept(out) == [4, 5]
    assert all(value.isfinite().all() for value in weights(out).values())
    assert train(config, resume=True).steps == TOTAL


def test_the_largest_image_is_stored_and_holds_when_the_run_is_resumed(picture_folder, tmp_path, monkeypatch) -> None:
    out, limits = tmp_path / "run", list[int]()
    config = settings(picture_folder(24), out)
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.002")  # the pictures have 1280 pixels
    assert train(config, listeners=[Stop(2, signal.SIGTERM)]).interrupted
    assert read_config(out).max_megapixels == 0.002
    monkeypatch.delenv(MEGAPIXELS_VARIABLE)
    train(config, resume=True, listeners=[Do(4, lambda: limits.append(pixel_limit()))])
    assert limits == [2000]
    assert MEGAPIXELS_VARIABLE not in os.environ


def test_images_of_one_colour_are_named_as_the_cause(tmp_path) -> None:
    data = tmp_path / "black"
    data.mkdir()
    for number in range(24):
        Image.new("RGB", (40, 32)).save(data / f"{number}.png")
    with pytest.raises(UserError, match="every image of the first batch is of one colour"):
        train(settings(data, tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "advice", "not_this"),
    [
        ({"std": (1e-30, 1e-30, 1e-30)}, "raise --std", "learning-rate"),
        (
            {"method": replace(cases.DINO, student_temperature=1e-38)},
            "raise --method.student-temperature",
            "learning-rate",
        ),
    ],
    ids=["std", "temperature"],
)
def test_advice_names_the_setting_that_is_to_blame(changes, advice, not_this, picture_folder, tmp_path) -> None:
    with pytest.raises(UserError, match=advice) as error:
        train(settings(picture_folder(24), tmp_path / "run", **changes))
    assert not_this not in str(error.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"step": "x"},
        {"step": -1},
        {"step": 10**30},
        {"optimizer_groups": None},
        {"optimizer_groups": [{}]},
        {"run": {}},
        {"run": None},
        {"data_fingerprint": None},
    ],
    ids=str,
)
def test_odd_metadata_of_a_checkpoint_are_refused_in_one_line(odd, picture_folder, tmp_path) -> None:
    trainer = cases.trainer(settings(picture_folder(24), tmp_path / "run"))
    trainer.save(tmp_path / "whole.safetensors")
    whole = checkpoint.load(tmp_path / "whole.safetensors")
    checkpoint.save(tmp_path / "odd.safetensors", whole.tensors, {**whole.metadata, **odd})
    with pytest.raises(UserError, match=r"odd\.safetensors|images below"):
        trainer.restore(tmp_path / "odd.safetensors")


# Settings that cannot be


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": OptimizerConfig(warmup_epochs=3)}, "warm-up of 3 epochs is not shorter than the run of 3"),
        ({"batch_size": 8, "accumulate": 3}, "--batch-size 8 cannot be cut into 1 process.* x 3"),
        ({"batch_size": 32}, "--batch-size 32 is more than the 24 readable images"),
        ({"batch_size": 0}, "--batch-size must be at least 1, not 0"),
        ({"accumulate": 0}, "--accumulate must be at least 1, not 0"),
        ({"epochs": 0}, "--epochs must be above 0"),
        ({"method": replace(cases.SETTINGS["dino"], freeze_last_layer_epochs=3)}, "last layer would be frozen"),
        ({"optimizer": OptimizerConfig(warmup_epochs=0, min_learning_rate=1e-3)}, "above the peak of 1.5625e-05"),
        (
            {"optimizer": OptimizerConfig(warmup_epochs=0, learning_rate=0, min_learning_rate=0)},
            "learning-rate must be",
        ),
        ({"optimizer": OptimizerConfig(warmup_epochs=0, clip=-1)}, "--optimizer.clip must be"),
        (
            {"optimizer": OptimizerConfig(warmup_epochs=0, min_learning_rate=1e-3, scaling="sqrt")},
            r"above the peak of 8.83883e-05 \(0.0005 x 0.176777 by --optimizer.scaling sqrt\)",
        ),
        (
            {"optimizer": OptimizerConfig(warmup_epochs=0, min_learning_rate=1e-3, scaling="none")},
            r"above the peak of 0.0005 \(0.0005 x 1 by --optimizer.scaling none\)",
        ),
        ({"fraction": 0.0}, "--fraction must be above 0 and at most 1, not 0.0"),
        ({"fraction": 0.25}, "--batch-size 8 is more than the 6 readable images"),
        ({"saving": SavingConfig(keep=0)}, "--saving.keep must be at least 1"),
        ({"log_every": 0}, "--log-every must be at least 1"),
        ({"seed": -1}, "--seed must be from 0 to"),
        ({"device": "cuda:7"}, "--device cuda:7"),
        ({"device": "gpu"}, "--device gpu is not a device"),
        ({"backbone": "vit_mikro_conv8"}, "did you mean vit_micro_conv8"),
        ({"views": replace(cases.VIEWS, global_size=36)}, "multiple of its patch of 8 px; 36 is not"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_contradict_are_refused_before_anything_starts(changes, words, picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    if changes.get("device", "").startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine may have that device")
    with pytest.raises(UserError, match=words) as error:
        train(settings(picture_folder(24), out, **changes))
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_the_same_settings_within_the_limits_are_taken(picture_folder, tmp_path) -> None:
    """The limits themselves: a batch of all images, and a warm-up and a frozen layer just shorter than the run."""
    changes = {
        "batch_size": 24,
        "accumulate": 3,
        "optimizer": OptimizerConfig(warmup_epochs=2, learning_rate=2e-2),
        "method": replace(cases.SETTINGS["dino"], freeze_last_layer_epochs=2),
    }
    assert train(settings(picture_folder(24), tmp_path / "run", **changes)).steps == 3


# Data


def test_views_do_not_depend_on_the_number_of_workers(picture_folder, tmp_path) -> None:
    data = picture_folder(24)
    alone, helped = (cases.trainer(settings(data, tmp_path, workers=workers)) for workers in (0, 2))
    helped.next_step = alone.next_step = 2  # in mid-epoch
    count = 0
    for first, second in zip(alone.batches(), helped.batches(), strict=True):
        count += 1
        assert torch.equal(first.global_views, second.global_views)
        assert torch.equal(first.local_views, second.local_views)
        assert torch.equal(first.index, second.index)
    assert count == TOTAL - 2


def test_every_epoch_shows_every_image_once_in_another_order(picture_folder, tmp_path) -> None:
    batches = [views.index for views in cases.trainer(settings(picture_folder(24), tmp_path)).batches()]
    epochs = [torch.cat(batches[start : start + PER_EPOCH]) for start in range(0, TOTAL, PER_EPOCH)]
    assert all(sorted(epoch.tolist()) == list(range(24)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
