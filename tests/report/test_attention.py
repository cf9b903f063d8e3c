"""Attention snapshots in a run's folder: what is kept, thinned, resumed and read, and the section that shows them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope import api, checkpoint
from dinoscope.data.sources import first_to_last
from dinoscope.errors import UserError
from dinoscope.evaluation.online import AttentionSnapshots
from dinoscope.explain.history import (
    FOLDER,
    MAX_SNAPSHOTS,
    Snapshot,
    begin,
    keep_snapshot,
    read_history,
    small,
    thinned,
)
from dinoscope.methods.method import Method
from dinoscope.model_names import load_model
from dinoscope.report.page import Figure, Folded, Group, Notice
from dinoscope.report.pages import MapColumn, maps_page
from dinoscope.report.runs import Material
from dinoscope.report.sections import attention
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener, Observation
from dinoscope.training.loop import train
from dinoscope.types import Step
from tests.conformance import cases

PICTURES = Callable[..., Path]


def settings(data: Path, out: Path, **changes: object) -> RunConfig:
    """24 pictures: three epochs of three steps, each with an evaluation."""
    return cases.run_config("dino", data, out, **{"evaluate_every": 1, "drop_path": 0.2, **changes})


def snapshot(steps: int, value: float = 1.0, side: int = 4, names: tuple[str, ...] = ("a.png", "b.png")) -> Snapshot:
    maps = tuple(np.arange(1, side * side + 1, dtype=np.float32).reshape(side, side) ** value for _ in names)
    return Snapshot(steps, steps / 10, "attention", names, maps)


def pictures(count: int = 2, side: int = 20) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (side, side + 10, 3), dtype=np.uint8) for _ in range(count)]


def steps_kept(run: Path) -> list[int]:
    found = read_history(run)
    return [] if found is None else [each.steps for each in found.snapshots]


def test_maps_and_images_come_back_as_they_were_kept(tmp_path: Path) -> None:
    images = pictures()
    begin(tmp_path, images, 0)
    keep_snapshot(tmp_path, snapshot(5))
    found = read_history(tmp_path)
    assert found is not None
    for kept, image in zip(found.pictures, images, strict=True):
        np.testing.assert_array_equal(kept, image)
    (only,) = found.snapshots
    assert (only.steps, only.epoch, only.what, only.images) == (5, 0.5, "attention", ("a.png", "b.png"))
    given = snapshot(5).maps[0]
    np.testing.assert_allclose(only.maps[0], given / given.mean(), rtol=1e-3)


def test_faint_attention_is_kept_as_well_as_strong(tmp_path: Path) -> None:
    """Attention over many patches is below what 16 bits hold; in units of its mean it is not."""
    begin(tmp_path, pictures(), 0)
    given = snapshot(1)
    keep_snapshot(tmp_path, replace(given, maps=tuple(each * 1e-9 for each in given.maps)))
    found = read_history(tmp_path)
    assert found is not None
    np.testing.assert_allclose(found.snapshots[0].maps[0], given.maps[0] / given.maps[0].mean(), rtol=1e-3)
    keep_snapshot(tmp_path, replace(given, maps=tuple(0 * each for each in given.maps)))
    assert (read_history(tmp_path) or found).snapshots[0].maps[0].max() == 0


def test_the_same_step_is_replaced_and_later_ones_are_dropped_on_resuming(tmp_path: Path) -> None:
    begin(tmp_path, pictures(), 0)
    for steps in (0, 10, 20, 30):
        keep_snapshot(tmp_path, snapshot(steps))
    keep_snapshot(tmp_path, snapshot(20, value=2))
    assert steps_kept(tmp_path) == [0, 10, 20, 30]
    found = read_history(tmp_path)
    assert found is not None
    assert not np.array_equal(found.snapshots[2].maps[0], found.snapshots[1].maps[0])
    begin(tmp_path, pictures(), 20)
    assert steps_kept(tmp_path) == [0, 10, 20]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    begin(tmp_path, pictures(), 0)
    keep_snapshot(tmp_path, snapshot(1))
    (tmp_path / FOLDER / ".step-000000002.safetensors.partial-7").mkdir()
    assert steps_kept(tmp_path) == [1]
    begin(tmp_path, pictures(), 1)
    assert not list((tmp_path / FOLDER).glob(".*"))


def test_a_thousand_evaluations_stay_few_small_and_evenly_spread(tmp_path: Path) -> None:
    kept: list[int] = []
    for steps in range(0, 10_010, 10):
        kept = thinned([*kept, steps], MAX_SNAPSHOTS)
        assert kept[0] == 0
        assert kept[-1] == steps
        assert len(kept) <= MAX_SNAPSHOTS
    gaps = [after - before for before, after in pairwise(kept)]
    assert max(gaps) < 2 * 10_000 / (MAX_SNAPSHOTS - 1)
    # the largest there can be: noise of 400 pixels, maps of 100 cells a side
    names = tuple("abcdef")
    begin(tmp_path, pictures(6, 400), 0)
    noise = tuple(np.random.default_rng(1).random((100, 100), dtype=np.float32) for _ in names)
    for steps in range(MAX_SNAPSHOTS + 5):
        keep_snapshot(tmp_path, Snapshot(steps, 0.0, "attention", names, noise))
    files = list((tmp_path / FOLDER).iterdir())
    assert len(files) == MAX_SNAPSHOTS + 6
    assert sum(file.stat().st_size for file in files) < 1_000_000
    assert max(small(np.zeros((4000, 3, 3), np.uint8)).shape) == 128


def test_few_steps_are_all_kept() -> None:
    assert thinned([0, 3, 9], 3) == [0, 3, 9]
    assert thinned([0, 1, 3, 9], 3) == [0, 3, 9]
    assert thinned([0, 10, 20, 30], 3) == [0, 20, 30]  # of equal ones the earliest goes


def test_snapshots_of_other_images_are_left_out(tmp_path: Path) -> None:
    begin(tmp_path, pictures(), 0)
    keep_snapshot(tmp_path, snapshot(1))
    keep_snapshot(tmp_path, snapshot(2, names=("a.png", "c.png")))
    assert steps_kept(tmp_path) == [2]


def test_no_history_and_a_damaged_one(tmp_path: Path) -> None:
    assert read_history(tmp_path) is None
    begin(tmp_path, pictures(), 0)
    assert read_history(tmp_path) is None
    keep_snapshot(tmp_path, snapshot(1))
    file = checkpoint.step_path(tmp_path / FOLDER, 1)
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    with pytest.raises(UserError, match="step-000000001"):
        read_history(tmp_path)
    checkpoint.save(file, {}, {"steps": 1})
    with pytest.raises(UserError, match="delete it"):
        read_history(tmp_path)
    file.write_bytes(whole)
    (tmp_path / FOLDER / "image-1.png").unlink()
    with pytest.raises(UserError, match="image"):
        read_history(tmp_path)


class Stop(Listener):
    """Ask for the end after a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, record) -> None:
        if record.step.index == self.step:
            signal.raise_signal(signal.SIGINT)


def test_a_run_keeps_a_snapshot_before_training_and_at_every_evaluation(picture_folder: PICTURES, tmp_path) -> None:
    """Stopped and resumed, and with the snapshots as without them: bit for bit the same run."""
    data = picture_folder(24)
    train(settings(data, tmp_path / "bare"))
    train(settings(data, tmp_path / "whole"), listeners=[AttentionSnapshots(2)])
    part = train(settings(data, tmp_path / "parts"), listeners=[AttentionSnapshots(2), Stop(4)])
    assert part.interrupted
    assert steps_kept(tmp_path / "parts") == [0, 3]
    train(settings(data, tmp_path / "parts"), resume=True, listeners=[AttentionSnapshots(2)])
    assert steps_kept(tmp_path / "whole") == steps_kept(tmp_path / "parts") == [0, 3, 6, 9]
    names = ("bare", "whole", "parts")
    bare, whole, parts = (checkpoint.load(checkpoint.latest(tmp_path / x / "checkpoints") or Path()) for x in names)
    assert all(torch.equal(value, whole.tensors[name]) for name, value in bare.tensors.items())
    assert all(torch.equal(value, whole.tensors[name]) for name, value in parts.tensors.items())
    for file in (tmp_path / "whole" / FOLDER).iterdir():
        assert file.read_bytes() == (tmp_path / "parts" / FOLDER / file.name).read_bytes()
    found = read_history(tmp_path / "whole")
    assert found is not None
    assert [each.epoch for each in found.snapshots] == [0, 1, 2, 3]
    assert not np.array_equal(found.snapshots[0].maps[0], found.snapshots[-1].maps[0])


def test_a_full_disk_does_not_end_the_run(picture_folder: PICTURES, tmp_path: Path, monkeypatch, caplog) -> None:
    from dinoscope.evaluation import online

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(online, "keep_snapshot", full)
    config = settings(picture_folder(24), tmp_path / "run", epochs=1)
    assert not train(config, listeners=[AttentionSnapshots(2)]).interrupted
    assert "No space left" in (tmp_path / "run" / "train.log").read_text()
    monkeypatch.setattr(online, "begin", full)
    assert not train(config, overwrite=True, listeners=[AttentionSnapshots(2)]).interrupted


def test_without_evaluations_nothing_is_kept(picture_folder: PICTURES, tmp_path: Path) -> None:
    train(settings(picture_folder(24), tmp_path / "run", epochs=1, evaluate_every=0), listeners=[AttentionSnapshots()])
    assert not (tmp_path / "run" / FOLDER).exists()


def test_pictures_for_tensorboard_are_there_as_before(picture_folder: PICTURES, tmp_path: Path) -> None:
    seen: list[Observation] = []

    class Look(AttentionSnapshots):
        def evaluate(self, step: Step, method: Method) -> Observation:
            seen.append(super().evaluate(step, method))
            return seen[-1]

    train(settings(picture_folder(24), tmp_path / "run", epochs=1), listeners=[Look(2)])
    assert list(seen[0].pictures) == ["attention/0", "attention/1"]


def test_the_page_has_a_row_for_each_image_and_bands_of_columns() -> None:
    images = pictures(3)
    column = MapColumn("title", "detail", [snapshot(1).maps[0]] * 3)
    few, many = (maps_page(images, [column] * count, "text").pixels() for count in (2, 8))
    assert few.shape[0] < many.shape[0]
    assert max(few.shape[1], many.shape[1]) <= 1300
    assert first_to_last(3, 6) == [0, 1, 2]
    assert first_to_last(11, 3) == [0, 5, 10]


def test_the_section_shows_training_and_all_models(picture_folder: PICTURES, tmp_path: Path) -> None:
    data = picture_folder(24)
    api.train(settings(data, tmp_path / "kept", epochs=2))
    train(settings(data, tmp_path / "bare", epochs=1))
    subjects = [load_model(str(tmp_path / name)) for name in ("kept", "bare")]
    section = attention.section(Material(models=tuple(subjects)))
    assert section is not None
    through, across = section.blocks
    assert isinstance(through, Group)
    assert isinstance(across, Group)
    (of_run,) = through.blocks
    assert isinstance(of_run, Figure)
    assert "kept: attention of the same 6 training images, after 3 of the 3" in of_run.caption
    (side_by_side,) = across.blocks
    assert isinstance(side_by_side, Figure)
    assert "kept, bare" in side_by_side.caption
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    moved = attention.section(Material(models=tuple(subjects)))
    assert moved is not None
    last = moved.blocks[-1]
    assert isinstance(last, Group)
    assert isinstance(last.blocks[0], Figure)
    assert "as small as the run kept them" in last.blocks[0].caption
    assert attention.section(Material(models=tuple(subjects[1:]))) is None
    (checkpoint.step_path(tmp_path / "kept" / FOLDER, 0)).write_bytes(b"broken")
    (tmp_path / "elsewhere").rename(tmp_path / "pictures")
    told = attention.section(Material(models=tuple(subjects)))
    assert told is not None
    assert isinstance(told.blocks[-1], Notice)
    assert told.blocks[-1].kind == "warning"


def test_further_runs_open_at_a_click(picture_folder: PICTURES, tmp_path: Path) -> None:
    data = picture_folder(24)
    api.train(settings(data, tmp_path / "a", epochs=1))
    subject = load_model(str(tmp_path / "a"))
    section = attention.section(Material(models=tuple(replace(subject, label=name) for name in ("a", "b", "c", "d"))))
    assert section is not None
    through = section.blocks[0]
    assert isinstance(through, Group)
    assert [type(block) for block in through.blocks] == [Figure, Figure, Folded]


def test_broken_weights_are_said_and_the_other_models_shown(picture_folder: PICTURES, tmp_path: Path) -> None:
    train(settings(picture_folder(24), tmp_path / "a", epochs=1))
    whole, broken = (replace(load_model(str(tmp_path / "a")), label=name) for name in ("whole", "broken"))
    with torch.no_grad():
        next(broken.backbone.parameters()).fill_(float("nan"))
    section = attention.section(Material(models=(whole, broken)))
    assert section is not None
    group, notice = section.blocks
    assert isinstance(group, Group)
    assert isinstance(notice, Notice)
    assert "broken: its attention is not finite" in notice.text
    alone = attention.section(Material(models=(broken,)))
    assert alone is not None
    assert [type(block) for block in alone.blocks] == [Notice]
