"""`dinoscope.study.plan`: what is refused before hours are spent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dinoscope.errors import UserError
from dinoscope.methods.supervised import SupervisedConfig
from dinoscope.study.plan import plan_runs, seconds_per_step
from dinoscope.training.config import total_steps
from dinoscope.training.loop import train
from tests.conformance import cases
from tests.conftest import draw_picture
from tests.study.test_state import settings, train_and_stop


def test_a_plan_knows_images_steps_and_what_is_left(picture_folder, tmp_path) -> None:
    data = picture_folder(26)
    configs = [settings(data, tmp_path / name) for name in ("new", "running", "done")]
    train_and_stop(configs[1], resume=False)
    train(configs[2])
    runs = plan_runs(configs)
    assert [(len(run.images), run.steps, run.steps_left) for run in runs] == [(26, 6, 6), (26, 6, 5), (26, 6, 0)]


@pytest.mark.parametrize(("images", "epochs", "batch"), [(26, 3, 12), (12, 0.4, 12), (25, 2.5, 8)])
def test_steps_are_those_of_the_trainer(images, epochs, batch, picture_folder, tmp_path) -> None:
    config = settings(picture_folder(images), tmp_path / "a", epochs=epochs, batch_size=batch)
    assert total_steps(config, images) == cases.trainer(config).total


def test_a_wrong_setting_names_the_run_and_nothing_is_written(picture_folder, tmp_path) -> None:
    data = picture_folder(12)
    good, bad = settings(data, tmp_path / "good"), settings(data, tmp_path / "bad", batch_size=13)
    with pytest.raises(UserError, match=r"run bad: --batch-size 13 is more than the 12 readable images"):
        plan_runs([good, bad])
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_run_on_other_images_is_refused(picture_folder, tmp_path) -> None:
    import cv2

    data = picture_folder(12)
    config = settings(data, tmp_path / "a", epochs=1)
    train(config)
    cv2.imwrite(str(data / "one more.png"), draw_picture(99))
    with pytest.raises(UserError, match="was trained on other images than"):
        plan_runs([config])


def test_runs_on_shares_of_one_folder(picture_folder, tmp_path) -> None:
    """Each has its own images and steps, and is known again after it was trained."""
    data = picture_folder(26)
    whole, half = (settings(data, tmp_path / name, fraction=share) for name, share in (("whole", 1.0), ("half", 0.5)))
    train(half)
    runs = plan_runs([whole, half])
    assert [(len(run.images), run.steps, run.steps_left) for run in runs] == [(26, 6, 6), (13, 3, 0)]
    with pytest.raises(UserError, match="run none: --fraction must be above 0"):
        plan_runs([settings(data, tmp_path / "none", fraction=0.0)])


def test_labels_are_asked_for_before_anything_starts(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a", method=SupervisedConfig())
    with pytest.raises(UserError, match=r"run a: supervised training needs labels"):
        plan_runs([config])
    labelled = picture_folder(12, classes=2, name="labelled")
    assert len(plan_runs([replace(config, data=labelled)])) == 1


def test_timing_takes_real_steps_and_leaves_nothing(picture_folder, tmp_path) -> None:
    (run,) = plan_runs([settings(picture_folder(12), tmp_path / "a", epochs=1)])
    threads = torch.get_num_threads()
    assert 1e-4 < seconds_per_step(run) < 10
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    assert torch.get_num_threads() == threads


def test_a_run_keeps_the_files_that_it_left_out(picture_folder, tmp_path) -> None:
    """One that was damaged then and is whole now is not of its images: they are those that it began with."""
    data = picture_folder(26)
    config = settings(data, tmp_path / "running")
    whole = (data / "0003.png").read_bytes()
    (data / "0003.png").write_bytes(whole[:100])
    train_and_stop(config, resume=False)
    (data / "0003.png").write_bytes(whole)
    runs = plan_runs([config, settings(data, tmp_path / "new")])
    assert [len(run.images) for run in runs] == [25, 26]


def test_the_limit_of_unreadable_files_is_that_of_the_run(picture_folder, tmp_path) -> None:
    data = picture_folder(26)
    for number in range(2):
        (data / f"{number:04d}.png").write_bytes(b"")
    config = settings(data, tmp_path / "a")
    with pytest.raises(UserError, match=r"run a: .*--max-unreadable 0\.08"):
        plan_runs([config])
    assert len(plan_runs([replace(config, max_unreadable=0.08)])[0].images) == 24
