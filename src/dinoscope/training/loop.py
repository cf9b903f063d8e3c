"""The training loop: the only one, for every method."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dinoscope import checkpoint, distributed
from dinoscope.data.grey_range import describe
from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import Batches
from dinoscope.data.scan import Unreadable, check_readable
from dinoscope.data.sources import ImageFolder, counted, find_images, resolve_split
from dinoscope.errors import UserError
from dinoscope.files import is_full, writing
from dinoscope.methods.health import spread
from dinoscope.system import pick_device
from dinoscope.training.accumulate import cut_differently
from dinoscope.training.clock import Clock
from dinoscope.training.config import RunConfig, check, check_settings
from dinoscope.training.images import (
    begun_images,
    look_at,
    read_unreadable,
    scanned_images,
    trained_on,
    write_unreadable,
)
from dinoscope.training.initial import facts_of, give_weights, load_initial, washes_out
from dinoscope.training.listener import Evaluation, Listener, RunStart, StepRecord, closing, each
from dinoscope.training.monitor import CollapseMonitor, patience, rank_me
from dinoscope.training.provenance import ProvenanceFile
from dinoscope.training.run_folder import LogFile, MetricsFile, RunFolder, read_config
from dinoscope.training.tensorboard import TensorBoard
from dinoscope.training.trainer import Trainer
from dinoscope.types import Step, Views

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
    check_settings(config)
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
        each(listeners, lambda listener: listener.scanned(done, total))

    if begun:
        images = begun_images(config, run, begun)
        faults = look_at(config, images, progress).unreadable
        check_readable(images.name, faults, len(images), config.max_unreadable)
        faults = tuple(Unreadable(path, reason) for path, reason in read_unreadable(run).items())
    else:
        images, faults, window = scanned_images(config, progress)
        config = config if resume else replace(config, window=window)
    check(config, len(images), processes, len(images.classes), counted(images.passed_over))
    run.prepare(config, resume=resume, overwrite=overwrite)
    write_unreadable(run, faults)
    distributed.barrier()
    return config, images


def _run(trainer: Trainer, run: RunFolder, listeners: Sequence[Listener]) -> RunResult:
    """All steps that are left; whatever ends them, the weights are saved and the loader processes end."""
    batches = trainer.batches()
    with _stop_signals() as stop:
        try:
            _make_steps(trainer, run, listeners, batches, stop)
            _save(trainer, run, listeners, last=True)  # within: a signal must not end the writing
        except Exception as error:
            if (failure := _failure(error, _rescue(trainer, run, listeners))) is error:
                raise
            raise failure from error
        finally:
            batches.close()
        finished = trainer.next_step == trainer.total
        if finished:
            _export(trainer, run)
    distributed.barrier()
    return RunResult(run.path, trainer.next_step, interrupted=not finished)


def _make_steps(
    trainer: Trainer, run: RunFolder, listeners: Sequence[Listener], batches: Batches[Views], stop: _StopRequests
) -> None:
    """Steps until the last one or a request to stop, with evaluations and checkpoints between them."""
    config = trainer.config
    monitor = CollapseMonitor(trainer.method.diagnose, patience(trainer.total), steps=trainer.next_step)
    clock, saved = Clock(config.batch_size), time.monotonic()
    lost: set[int] = set()
    while trainer.next_step < trainer.total:
        with clock.waiting():
            views = stop.next_batch(batches)
        if views is None:
            break
        step = trainer.at(trainer.next_step)
        values, _ = trainer.make_step(views)
        _note_lost(trainer, step, lost, views.unreadable, listeners)
        _tell(listeners, monitor, StepRecord(step, values | clock.lap()), config.log_every)
        if _evaluation_due(trainer):
            _evaluate(trainer, listeners)
            clock.restart()
        stops, missing = distributed.totals(bool(stop), len(lost), device=trainer.device)
        _check_lost(trainer, step, lost, int(missing), listeners)
        if distributed.is_main() and run.has_vanished():
            raise UserError(f"{run.path} was moved or deleted while the run was under way, so the run ends")
        if stops:  # in one process at least: a signal may reach each at another step
            break
        if trainer.next_step < trainer.total and _checkpoint_due(trainer, saved):
            _save(trainer, run, listeners)
            saved = time.monotonic()


def _rescue(trainer: Trainer, run: RunFolder, listeners: Sequence[Listener]) -> str:
    """Save a run that failed, if its weights are finite; return what there is to continue from."""
    distributed.leave()
    if not distributed.is_main():
        return ""
    path = checkpoint.step_path(run.checkpoints, trainer.next_step)
    try:
        trainer.rewind()
        # A step whose records are not all written is made again.
        recorded = not any(listener.essential and listener.faults for listener in listeners)
        if trainer.whole and recorded and not path.exists() and trainer.is_finite():
            run.make_again(trainer.config)
            _write(trainer, run, path)
    except Exception as error:  # whatever it is, it must not hide why the run ends
        logger.error("the checkpoint after step %d could not be written: %s", trainer.next_step, error)
    newest = checkpoint.latest(run.checkpoints)
    return f"{newest} is whole: --resume continues from it" if newest else "There is no checkpoint to continue from"


def _failure(error: Exception, standing: str) -> Exception:
    """What to raise for what ended the run: one line for a person, or, for a fault of the program, the error itself."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        line = f"memory is exhausted ({reason}): take a smaller --batch-size, or cut it by --accumulate"
    elif isinstance(error, UserError | UnreadableImage):
        line = str(error)
    elif distributed.is_broken():
        line = "another process of the group has ended; its own message says why"
    else:
        if distributed.is_main():
            logger.error("the run ends", exc_info=error)
            error.add_note(standing)
        return error
    text = ". ".join(filter(None, (line, standing)))
    if distributed.is_main():
        logger.error("the run ends: %s", text)
    return UserError(text)


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
        facts["passed over"] = counted(trainer.images.passed_over)
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
    each(listeners, lambda listener: listener.started(start))
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
    each(listeners, lambda listener: listener.stepped(record))
    if verdict:
        each(listeners, lambda listener: listener.diagnosed(record.step, verdict))
    if record.step.index % log_every == 0:
        each(listeners, lambda listener: listener.logged(record))


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

        def evaluate(listener: Listener) -> Evaluation:
            trainer.method.eval()
            return listener.evaluate(step, trainer.method)

        for evaluation in each(listeners, evaluate):
            values |= evaluation.values
            pictures |= evaluation.pictures
        trainer.method.train()
        each(listeners, lambda listener: listener.logged(StepRecord(step, values, pictures)))
    distributed.barrier()


def _checkpoint_due(trainer: Trainer, saved: float) -> bool:
    saving = trainer.config.saving
    by_step = saving.every_steps > 0 and trainer.next_step % saving.every_steps == 0
    return by_step or time.monotonic() - saved > 60 * saving.every_minutes


def _save(trainer: Trainer, run: RunFolder, listeners: Sequence[Listener], *, last: bool = False) -> None:
    """Write a checkpoint and delete the oldest. If that fails, the run goes on with the previous one and says so.

    Raises UserError if the `last` checkpoint, at the end or at a stop, cannot be written.
    """
    if not distributed.is_main():
        return
    try:
        _write(trainer, run, checkpoint.step_path(run.checkpoints, trainer.next_step))
    except OSError as error:
        line = f"the checkpoint after step {trainer.next_step} could not be written: {error}"
        if last:
            raise UserError(f"{line}. Free space, then --resume") from error
        newest = checkpoint.latest(run.checkpoints)
        _say(
            listeners,
            trainer.next_step,
            f"{line}; {f'{newest.name} is whole' if newest else 'there is no earlier one'}",
        )
        return
    checkpoint.prune(run.checkpoints, trainer.config.saving.keep)


def _write(trainer: Trainer, run: RunFolder, path: Path) -> None:
    """Write a checkpoint, into a folder that may be gone."""
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    _making_room(run, functools.partial(trainer.save, path))


def _making_room(run: RunFolder, write: Callable[[], object]) -> None:
    """Write, and on a full disk delete older checkpoints and try again; the newest one stays."""
    expendable = sorted(run.checkpoints.glob("step-*.safetensors"))[:-1]
    while True:
        try:
            write()
            return
        except OSError as error:
            if not (expendable and is_full(error)):
                raise
            logger.warning("the disk is full: %s is deleted to make room", expendable[0])
            expendable.pop(0).unlink()


def _export(trainer: Trainer, run: RunFolder) -> None:
    """Write the evaluated backbone alone, for use elsewhere."""
    if not distributed.is_main():
        return
    try:
        backbone = trainer.method.evaluated_backbone
        _making_room(run, functools.partial(checkpoint.export_backbone, run.exported, backbone))
    except OSError as error:
        raise UserError(
            f"training is done and its checkpoint written, but not {run.exported}: {error}. Free space, then --resume"
        ) from error


def _say(listeners: Sequence[Listener], step: int, message: str) -> None:
    """Tell the person, and the log."""
    logger.warning("step %d: %s", step, message)
    each(listeners, lambda listener: listener.said(message))


def _note_lost(
    trainer: Trainer, step: Step, lost: set[int], positions: Sequence[int], listeners: Sequence[Listener]
) -> None:
    """Log the images of a step that changed since the run began; say the first of an epoch to the person."""
    for position in positions:
        line = (
            f"{trainer.images.name}/{trainer.images.key(position)} was deleted, damaged or replaced during the run; if "
            "it cannot be read, the next image stands in"
        )
        if lost:
            logger.warning("%s", line)
        else:
            _say(listeners, step.index, line)
        lost.add(position)


def _check_lost(trainer: Trainer, step: Step, lost: set[int], missing: int, listeners: Sequence[Listener]) -> None:
    """Raise UserError if too many images changed within an epoch; report their number at its end.

    missing: of all processes.
    """
    total, limit = len(trainer.images), trainer.config.max_unreadable
    line = f"{missing} of {total} images were deleted, damaged or replaced during the run"
    if missing > limit * total and trainer.next_step < trainer.total:
        raise UserError(f"{line}, more than {100 * limit:g}%: put them back, or begin a new run without them")
    if trainer.next_step % trainer.per_epoch == 0:
        if missing:
            _say(listeners, step.index, f"epoch {step.epoch + 1}: {line}; above {100 * limit:g}% the run ends")
        lost.clear()


class _Stopped(BaseException):
    """A signal came while the main process waited for a batch."""


class _StopRequests(list[int]):
    """Signals that ask the run to end: after the step under way, or at once if it only waits for images."""

    waiting = False

    def receive(self, number: int, frame: object) -> None:
        """Remember a signal."""
        if number == signal.SIGINT and number in self:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.append(number)
        if self.waiting:
            self.waiting = False
            raise _Stopped

    def next_batch(self, batches: Batches[Views]) -> Views | None:
        """The next batch, or None if a signal came first.

        In a group the batch is waited for, because all processes stop after the same step.
        """
        try:
            self.waiting = distributed.world_size() == 1
            return None if self and self.waiting else next(batches)
        except _Stopped:
            return None
        finally:
            self.waiting = False


@contextlib.contextmanager
def _stop_signals() -> Iterator[_StopRequests]:
    """Collect SIGINT, SIGTERM and SIGHUP, so that the step under way ends and a checkpoint is written.

    A second SIGINT (Ctrl-C by a person who will not wait) ends the process at once. SIGTERM never does: launchers,
    queues and the rules of a study send it, two of them may within one step, and the checkpoint must not be lost for
    that. SIGHUP is a terminal that was closed; `nohup` has it ignored, and it stays so. In a thread other than the main
    one, signals are left alone.
    """
    received = _StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # none on Windows
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, received.receive) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
