"""A device that works on its own: no step waits for it, and what it computed is read when it is needed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dinoscope.errors import UserError
from dinoscope.training.config import SavingConfig
from dinoscope.training.listeners import Listener, StepRecord
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_metrics
from dinoscope.training.trainer import Scalars, Trainer, build_optimizer
from tests.conformance import cases
from tests.training.test_loop import TOTAL, Do, Stop, poisoned, results, settings, steps_kept, weights


@pytest.fixture
def deferred(monkeypatch):
    """The CPU stands for a device that is not waited for."""
    begin = Trainer.__init__

    def init(trainer, *arguments) -> None:
        begin(trainer, *arguments)
        trainer.deferred = True

    monkeypatch.setattr(Trainer, "__init__", init)


def moved_to_meta(trainer: Trainer) -> None:
    """Nothing can be read from the meta device: an attempt raises, as it would make the host wait for a GPU."""
    trainer.device, trainer.deferred, trainer._seen_images = torch.device("meta"), True, True
    for module in trainer.method.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = torch.empty_like(parameter, device="meta")
                module._parameters[name] = nn.Parameter(there, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="meta")
    trainer.optimizer = build_optimizer(trainer.config, trainer.method.trained_parameters())


@pytest.mark.parametrize("case", cases.SETTINGS)
def test_no_step_reads_from_the_device(case, picture_folder, tmp_path) -> None:
    trainer = cases.trainer(cases.run_config(case, picture_folder(24, classes=2), tmp_path, drop_path=0.2))
    batches = trainer.batches()
    trainer.make_step(next(batches))  # SwAV reads the length of its queue once
    moved_to_meta(trainer)
    for _ in range(3):  # the queue is full after two
        scalars = trainer.make_step(next(batches))
    assert isinstance(scalars, Scalars)
    assert scalars.on_device.is_meta
    assert "loss" in list(scalars)


def test_the_meta_device_cannot_be_read() -> None:
    for read in (float, bool, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(torch.ones((), device="meta"))


def test_a_run_is_the_same_if_the_device_is_not_waited_for(picture_folder, tmp_path, request) -> None:
    data, plain, late = picture_folder(24), tmp_path / "plain", tmp_path / "late"
    train(settings(data, plain, log_every=2, evaluate_every=2))
    request.getfixturevalue("deferred")
    train(settings(data, late, log_every=2, evaluate_every=2))
    assert results(late) == results(plain)
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(late).items())


def test_scalars_are_read_at_logged_steps_ends_of_epochs_and_before_checkpoints(
    deferred, picture_folder, tmp_path, monkeypatch
) -> None:
    reads, seen = list[int](), list[int]()

    class Told(Listener):
        def stepped(self, record: StepRecord) -> None:
            seen.append(record.step.index)

    make_step, tolist = Trainer.make_step, torch.Tensor.tolist
    made = list[int]()
    monkeypatch.setattr(Trainer, "make_step", lambda self, views: made.append(self.next_step) or make_step(self, views))
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(made[-1]) or tolist(self))
    out = tmp_path / "run"
    saving = SavingConfig(every_steps=8, keep=2)
    train(settings(picture_folder(24), out, log_every=100, saving=saving), listeners=[Told()])
    assert seen == list(range(TOTAL))
    # the first is logged; epochs end with 2, 5 and 8; a checkpoint follows 7
    assert reads == [0, 2, 2, 5, 5, 5, 7, 7, 8], reads
    assert [line["step"] for line in read_metrics(out)] == [0]
    assert steps_kept(out) == [8, 9]


def test_a_stop_and_its_checkpoint_do_not_wait_for_the_next_reading(deferred, picture_folder, tmp_path) -> None:
    import signal

    out = tmp_path / "run"
    config = settings(picture_folder(24), out, log_every=100)
    assert train(config, listeners=[Stop(0, signal.SIGTERM)]).steps == 1
    assert train(config, resume=True).steps == TOTAL


@pytest.mark.parametrize(("poison", "words"), [(math.nan, "the loss turned nan"), (math.inf, "the loss turned inf")])
def test_what_is_not_finite_is_seen_before_anything_is_saved(poison, words, deferred, picture_folder, tmp_path) -> None:
    out = tmp_path / "run"
    config = settings(picture_folder(24), out, log_every=100, saving=SavingConfig(every_steps=3, keep=9))
    undo = []
    try:
        with pytest.raises(UserError, match=f"{words} at step 3.*seen 3 steps later and the last checkpoint is whole"):
            train(config, listeners=[Do(2, lambda: undo.append(poisoned(lambda loss, student: loss * poison)))])
    finally:
        undo[0]()
    assert steps_kept(out) == [3]
    assert all(value.isfinite().all() for value in weights(out).values())
    assert train(config, resume=True).steps == TOTAL
