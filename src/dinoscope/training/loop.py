"""The training loop: the only one, for every method."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dinoscope import checkpoint, distributed
from dinoscope.data.folder import ImageFolder, find_images, listed, resolve_split
from dinoscope.data.grey_range import describe
from dinoscope.data.scan import Unreadable, check_readable
from dinoscope.errors import UserError
from dinoscope.methods.health import spread
from dinoscope.training.accumulate import cut_differently
from dinoscope.training.clock import Clock
from dinoscope.training.config import RunConfig, check
from dinoscope.training.device import pick_device
from dinoscope.training.images import (
    begun_images,
    look_at,
    read_unreadable,
    scanned_images,
    trained_on,
    write_unreadable,
)
from dinoscope.training.initial import facts_of, give_weights, load_initial, washes_out
from dinoscope.training.listener import Listener, RunStart, StepRecord, closing
from dinoscope.training.monitor import CollapseMonitor, patience, rank_me
from dinoscope.training.provenance import ProvenanceFile
from dinoscope.training.run_folder import LogFile, MetricsFile, RunFolder, read_config
from dinoscope.training.tensorboard import TensorBoard
from dinoscope.training.trainer import Trainer
from dinoscope.training.writing import writing

logger = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class RunResult:
    """What a run came to: its folder, the steps made in all, and whether a signal stopped it before the end."""

    out: Path
    steps: int
    interrupted: bool


def train(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, listeners: Sequence[Listener] = ()
) -> RunResult:
    """Train, or go on training, and leave a run folder.

    Started by torchrun or srun, each process calls this; the main one writes and speaks.
    Raises UserError for settings, data or an existing run folder that do not fit.
    """
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    audience, run = list[Listener](), RunFolder(config.out)
    with (
        distributed.process_group(device),
        run.claimed(config, resume=resume, overwrite=overwrite) if distributed.is_main() else contextlib.nullcontext(),
        closing(audience),
    ):
        if distributed.is_main():
            audience += listeners
        newest, damaged = checkpoint.newest_whole(run.checkpoints) if resume else (None, {})
        if resume:
            config = replace(config, window=read_config(run.path).window)
        # A checkpoint holds all weights: the model that the run began from need not be there any more.
        initial, origin = None if newest else load_initial(config), None
        config, images = _images(config, run, audience, newest, resume=resume, overwrite=overwrite)
        trainer = Trainer(config, images, device)
        if newest:
            trainer.restore(newest)
        elif initial is not None:
            give_weights(initial, trainer.method, f"--init {config.init}")
            origin = facts_of(initial.config, config)
        del initial
        if distributed.is_main():
            _open_files(trainer, run, audience)
        _announce(trainer, run, audience, origin)
        _set_aside(damaged, trainer, audience)
        return _run(trainer, run, audience)


def _open_files(trainer: Trainer, run: RunFolder, audience: list[Listener]) -> None:
    """Put the files of the run before the other listeners, each as soon as it is open, so that each is closed."""
    audience.insert(0, LogFile(run.log))
    audience.insert(1, MetricsFile(run.metrics, trainer.next_step))
    audience.insert(2, ProvenanceFile(run.path, trainer))
    audience.insert(3, TensorBoard(run.tensorboard, trainer.next_step))


def _set_aside(damaged: Mapping[Path, str], trainer: Trainer, listeners: Sequence[Listener]) -> None:
    """Rename damaged checkpoints, so that they no longer count as the newest, and name the one that is used instead."""
    if not distributed.is_main():
        return
    for path, fault in damaged.items():
        aside = path.with_name(f"{path.name}.damaged")
        with writing(path):
            path.replace(aside)
        used = checkpoint.step_path(path.parent, trainer.next_step)
        _say(listeners, trainer.next_step, f"{fault}. It is now {aside.name}, and the run continues from {used}")


def _images(
    config: RunConfig,
    run: RunFolder,
    listeners: Sequence[Listener],
    newest: Path | None,
    *,
    resume: bool,
    overwrite: bool,
) -> tuple[RunConfig, ImageFolder]:
    """The settings with their grey range, and the readable training images; the run folder is ready then.

    newest: a checkpoint to continue from, whose images are those that the run began with.
    """
    processes = distributed.world_size()
    begun = checkpoint.read_metadata(newest)["data_fingerprint"] if newest else None
    if not distributed.is_main():
        distributed.barrier()
        config = replace(config, window=read_config(run.path).window)
        if begun:
            return config, begun_images(config, run, begun)
        folder = find_images(resolve_split(config.data, "train"))
        return config, trained_on(config, folder, set(read_unreadable(run)))

    def progress(done: int, total: int) -> None:
        for listener in listeners:
            listener.scanned(done, total)

    if begun:
        images = begun_images(config, run, begun)
        faults = look_at(config, images, progress).unreadable
        check_readable(images.root, faults, len(images), config.max_unreadable)
        faults = tuple(Unreadable(path, reason) for path, reason in read_unreadable(run).items())
    else:
        images, faults, window = scanned_images(config, progress)
        config = config if resume else replace(config, window=window)
    check(config, len(images), processes, len(images.classes), listed(images.passed_over))
    run.prepare(config, resume=resume, overwrite=overwrite)
    write_unreadable(run, faults)
    distributed.barrier()
    return config, images


def _run(trainer: Trainer, run: RunFolder, listeners: Sequence[Listener]) -> RunResult:
    """All steps that are left, with evaluations and checkpoints between them."""
    config = trainer.config
    monitor = CollapseMonitor(trainer.method.diagnose, patience(trainer.total), steps=trainer.next_step)
    clock, saved = Clock(config.batch_size), time.monotonic()
    batches = trainer.batches()
    with _stop_signals() as stop:
        while trainer.next_step < trainer.total and not stop:
            with clock.waiting():
                views = next(batches)
            step = trainer.at(trainer.next_step)
            values, _ = trainer.make_step(views)
            _note_unreadable(trainer.images, views.unreadable)
            _tell(listeners, monitor, StepRecord(step, values | clock.lap()), config.log_every)
            if _evaluation_due(trainer):
                _evaluate(trainer, listeners)
                clock.restart()
            if distributed.any_process(bool(stop), trainer.device):
                stop.append(signal.SIGTERM)
            elif trainer.next_step < trainer.total and _checkpoint_due(trainer, saved):
                _save(trainer, run, listeners)
                saved = time.monotonic()
        _save(trainer, run, listeners, last=True)  # within: a signal must not end the writing
        finished = trainer.next_step == trainer.total
        if finished:
            _export(trainer, run)
    distributed.barrier()
    return RunResult(run.path, trainer.next_step, interrupted=not finished)


def _announce(trainer: Trainer, run: RunFolder, listeners: Sequence[Listener], origin: str | None) -> None:
    config, backbone = trainer.config, trainer.method.evaluated_backbone
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    facts = {
        "device": f"{trainer.device}, {trainer.precision}, {distributed.world_size()} process(es)",
        "batch": f"{config.batch_size} images a step, {trainer.per_epoch} steps an epoch, {trainer.total} in all",
    }
    if left_out := len(read_unreadable(run)):
        are = "file that cannot be read is" if left_out == 1 else "files that cannot be read are"
        facts["left out"] = f"{left_out} {are} named in {run.unreadable}"
    if trainer.images.passed_over:
        facts["passed over"] = listed(trainer.images.passed_over)
    if config.window is not None:
        alone = "; of headers alone" if config.scan == "headers" else ""
        facts["grey range"] = f"{describe(config.window)}{alone}"
    if trainer.next_step:
        facts["resumed"] = f"at step {trainer.next_step}"
    if origin is not None:
        facts["begins from"] = origin
    start = RunStart(config, trainer.at(trainer.next_step), len(trainer.images), parameters, facts, backbone)
    logger.info("training %s on %d images; %s", config.backbone, len(trainer.images), facts)
    trainer.method.eval()
    for listener in listeners:
        listener.started(start)
    trainer.method.train()
    warning = washes_out(config) if origin is not None else None
    if trainer.next_step:
        begun_with = read_config(run.path).accumulate
        warning = cut_differently(trainer.method, begun_with, config.accumulate)
    if warning:
        _say(listeners, trainer.next_step, warning)


def _tell(listeners: Sequence[Listener], monitor: CollapseMonitor, record: StepRecord, log_every: int) -> None:
    verdict = monitor.judge(record.values)
    if verdict:
        _say(listeners, record.step.index, verdict.text)
    for listener in listeners:
        listener.stepped(record)
        if verdict:
            listener.diagnosed(record.step, verdict)
        if record.step.index % log_every == 0:
            listener.logged(record)


def _evaluation_due(trainer: Trainer) -> bool:
    """At the end of every so many epochs, and at the end of the run."""
    every = trainer.config.evaluate_every * trainer.per_epoch
    if not every:
        return False
    return trainer.next_step % every == 0 or trainer.next_step == trainer.total


def _evaluate(trainer: Trainer, listeners: Sequence[Listener]) -> None:
    """Health of the last features, and what each listener measures; the method is in evaluation mode meanwhile."""
    if distributed.is_main():
        step, features = trainer.at(trainer.next_step - 1), trainer.window.features()
        values = {"rank_me": rank_me(features), "feature_spread": float(spread(features))}
        pictures: dict[str, np.ndarray] = {}
        trainer.method.eval()
        for listener in listeners:
            evaluation = listener.evaluate(step, trainer.method)
            values |= evaluation.values
            pictures |= evaluation.pictures
        trainer.method.train()
        for listener in listeners:
            listener.logged(StepRecord(step, values, pictures))
    distributed.barrier()


def _checkpoint_due(trainer: Trainer, saved: float) -> bool:
    saving = trainer.config.saving
    by_step = saving.every_steps > 0 and trainer.next_step % saving.every_steps == 0
    return by_step or time.monotonic() - saved > 60 * saving.every_minutes


def _save(trainer: Trainer, run: RunFolder, listeners: Sequence[Listener], *, last: bool = False) -> None:
    """Write a checkpoint and delete the oldest. A full disk is said, and the run goes on with the previous one.

    Raises UserError where the `last` checkpoint, at the end or at a stop, cannot be written.
    """
    if not distributed.is_main():
        return
    path = checkpoint.step_path(run.checkpoints, trainer.next_step)
    try:
        trainer.save(path)
    except OSError as error:
        if last:
            raise UserError(
                f"the checkpoint after step {trainer.next_step} could not be written: {error}. Earlier ones are "
                "whole: free space, then --resume"
            ) from error
        _say(listeners, trainer.next_step, f"checkpoint not written ({error}); earlier ones are whole")
        return
    checkpoint.prune(run.checkpoints, trainer.config.saving.keep)


def _export(trainer: Trainer, run: RunFolder) -> None:
    """Write the evaluated backbone alone, for use elsewhere."""
    if not distributed.is_main():
        return
    try:
        checkpoint.export_backbone(run.exported, trainer.method.evaluated_backbone)
    except OSError as error:
        raise UserError(
            f"training is done and its checkpoint written, but not {run.exported}: {error}. Free space, then --resume"
        ) from error


def _say(listeners: Sequence[Listener], step: int, message: str) -> None:
    """Tell the person, and the log."""
    logger.warning("step %d: %s", step, message)
    for listener in listeners:
        listener.said(message)


def _note_unreadable(images: ImageFolder, positions: Sequence[int]) -> None:
    for position in positions:
        logger.warning("%s became unreadable during the run; the next image stands in", images.path(position))


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the step under way ends and a checkpoint is written.

    A second SIGINT (Ctrl-C by a person who will not wait) ends the process at once. SIGTERM never does: launchers,
    queues and the rules of a study send it, two of them may within one step, and the checkpoint must not be lost for
    that. In a thread other than the main one, signals are left alone.
    """
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if number == signal.SIGINT and number in received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
