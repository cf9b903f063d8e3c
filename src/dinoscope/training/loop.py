"""The training loop: the only one, for every method."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from dinoscope import checkpoint, distributed
from dinoscope.data.augment_torch import DecodedBatch
from dinoscope.data.grey_range import describe
from dinoscope.data.groups import settled as keyed
from dinoscope.data.images import UnreadableImage, pixel_limit
from dinoscope.data.loader import Batches
from dinoscope.data.scan import check_readable
from dinoscope.data.sources import ImageSource, counted
from dinoscope.data.views import left_out as left_out_of_views
from dinoscope.errors import UserError
from dinoscope.files import MEGAPIXELS_VARIABLE, environment, is_full, writing
from dinoscope.methods.health import Verdict, feature_standard_deviation, rank_me
from dinoscope.models.network import IMAGENET_MEAN, IMAGENET_STD
from dinoscope.system import MemoryWatch, StopRequests, exact_cuda, stop_signals
from dinoscope.training import listeners as records
from dinoscope.training import start
from dinoscope.training.budget import Budget, fit, open_ended
from dinoscope.training.config import RunConfig, check, check_settings
from dinoscope.training.enough import too_short
from dinoscope.training.listeners import Listener, StepRecord
from dinoscope.training.run_folder import RunFolder, read_config
from dinoscope.training.trainer import Trainer
from dinoscope.types import Step, Views

logger = logging.getLogger("dinoscope")

T = TypeVar("T")

WINDOW = 50
"""Steps that a verdict and the rates rest on."""


@dataclass(frozen=True)
class RunResult:
    """The folder of a run, the steps made in all, and whether a signal stopped it before the end.

    is_main: whether this process is the one of its group that reports.
    """

    out: Path
    steps: int
    interrupted: bool
    is_main: bool = True

    @property
    def config(self) -> RunConfig:
        return read_config(self.out)


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    listeners: Sequence[Listener] = (),
    source: ImageSource | None = None,
    limit: Budget | None = None,
) -> RunResult:
    """Train, or continue a training, and leave a run folder.

    Started by torchrun or srun, each process calls this; the main one writes and reports.
    source: the training images, instead of those of `config.data`; a run is resumed with the same ones.
    limit: the time that the run takes, instead of its epochs, which a trial then chooses.
    Raises UserError for settings, data or an existing run folder that do not fit.
    """
    if limit and resume:
        raise UserError("--minutes and --resume exclude each other: a run keeps the length with which it began")
    check_settings(open_ended(config) if limit else config)
    config = start.settled(config)
    device = start.prepared_device(config)
    memory = MemoryWatch(device)
    audience, run = list[Listener](), RunFolder(config.out)
    if resume and config.max_megapixels is None:
        config = replace(config, max_megapixels=read_config(run.path).max_megapixels)
    megapixels: dict[str, str] = {}
    if MEGAPIXELS_VARIABLE in os.environ:  # the environment goes first
        config = replace(config, max_megapixels=pixel_limit() / 1e6)
    elif config.max_megapixels is not None:
        megapixels = {MEGAPIXELS_VARIABLE: str(config.max_megapixels)}
    with (
        environment(megapixels),
        exact_cuda(device) as cuda,
        distributed.process_group(device),
        run.claimed(config, resume=resume, overwrite=overwrite) if distributed.is_main() else contextlib.nullcontext(),
        records.closing(audience),
    ):
        if distributed.is_main():
            audience += listeners
        newest, damaged = checkpoint.newest_whole(run.checkpoints) if resume else (None, {})
        if resume:
            if source is None:
                start.require_data(config.data)
            saved = read_config(run.path)
            config = replace(config, window=saved.window, slices=saved.slices, mean=saved.mean, std=saved.std)
        # A checkpoint holds all weights: the model that the run began from need not exist any more.
        initial, origin = None if newest else start.load_initial(config), None
        config, images, left_out = _images(
            config, run, audience, newest, source, device, resume=resume, timed=bool(limit)
        )
        length: Mapping[str, str] = {}
        if limit:
            chosen = fit(config, images, device, limit, audience)
            config, length = chosen.config, chosen.facts
        if distributed.is_main():
            run.prepare(config, resume=resume, overwrite=overwrite)
            start.write_unreadable(run, left_out)
        distributed.barrier()
        trainer = Trainer(config, images, device)
        if newest:
            trainer.restore(newest)
        elif initial is not None:
            start.give_weights(initial, trainer.method, f"--init {config.init}")
            origin = start.facts_of(initial.config, config)
        del initial
        if distributed.is_main():
            # The files of the run before the other listeners, each as soon as it is open, so that each is closed.
            audience.insert(0, records.LogFile(run.log))
            audience.insert(1, records.MetricsFile(run.metrics, trainer.next_step))
            audience.insert(2, records.MachineFile(run.path, trainer, memory))
            audience.insert(3, records.TensorBoard(run.tensorboard, trainer.next_step))
        loop = _Loop(trainer, run, audience)
        loop.announce(origin, cuda, length)
        loop.set_aside(damaged)
        return loop.run_to_end()


def _images(
    config: RunConfig,
    run: RunFolder,
    audience: Sequence[Listener],
    newest: Path | None,
    source: ImageSource | None,
    device: torch.device,
    *,
    resume: bool,
    timed: bool,
) -> tuple[RunConfig, ImageSource, Mapping[str, str]]:
    """Return the settings with grey range and normalisation, the readable images, and the others with the reasons.

    newest: a checkpoint to continue from, whose images are those that the run began with.
    timed: the epochs are not chosen yet.
    """
    begun = checkpoint.read_metadata(newest)["data_fingerprint"] if newest else None
    if not distributed.is_main():
        distributed.barrier()
        window, mean, std, group, left_out = json.loads(distributed.from_main("", device))
        # With the name of the main process's key, which another machine must have too, or its split is another one.
        config = replace(config, window=window and tuple(window), mean=tuple(mean), std=tuple(std), group=group)
        if begun:
            return config, start.begun_images(config, run, begun, source), left_out
        return config, start.trained_on(config, start.found_images(config, source), left_out.keys()), left_out

    def progress(done: int, total: int) -> None:
        records.each(audience, lambda listener: listener.scanned(done, total))

    if begun:
        images, left_out = start.begun_images(config, run, begun, source), start.read_unreadable(run)
        report = start.scan_images(config, images, progress)
        check_readable(images.name, report.unreadable, report.images, config.max_unreadable)
    else:
        images, faults, completed = start.scanned_images(config, progress, source)
        left_out = {fault.path: fault.reason for fault in faults}
        config = config if resume else completed
    wanted, classes = open_ended(config) if timed else config, len(images.classes)
    check(wanted, len(images), distributed.world_size(), classes, counted(images.passed_over))
    distributed.barrier()
    group = keyed(config.group)
    distributed.from_main(json.dumps([config.window, config.mean, config.std, group, left_out]), device)
    return config, images, left_out


class _Loop:
    """What one process does for a run: steps, evaluations and checkpoints, until the end, a stop or a failure."""

    def __init__(self, trainer: Trainer, run: RunFolder, listeners: Sequence[Listener]) -> None:
        self.trainer, self.run, self.listeners, self.config = trainer, run, listeners, trainer.config
        self.lost = set[int]()  # positions of images that changed in this epoch
        self.monitor = CollapseMonitor(trainer.method.diagnose, patience(trainer.total), steps=trainer.next_step)
        self.unread = list[tuple[Step, Mapping[str, float], dict[str, float]]]()  # steps, their scalars and rates

    def tell(self, call: Callable[[Listener], T]) -> list[T]:
        return records.each(self.listeners, call)

    def warn(self, message: str, step: int | None = None) -> None:
        """Report to the person and to the log. step: that of the log; None is the next one."""
        logger.warning("step %d: %s", self.trainer.next_step if step is None else step, message)
        self.tell(lambda listener: listener.said(message))

    def announce(self, origin: str | None, cuda: str = "", length: Mapping[str, str] = MappingProxyType({})) -> None:
        """Report how the run begins.

        origin: what its first weights are, if not random. cuda: how it multiplies. length: why it has this one.
        """
        trainer, config, images = self.trainer, self.config, self.trainer.images
        method = trainer.whole_method()
        backbone = method.evaluated_backbone
        facts = {
            "device": f"{trainer.device}, {trainer.precision}, {distributed.world_size()} process(es)",
            "batch": f"{config.batch_size} images a step, {trainer.per_epoch} steps an epoch, {trainer.total} in all",
            **length,
            **too_short(config, len(images)),
        }
        if left_out := len(start.read_unreadable(self.run)):
            are = "file that cannot be read is" if left_out == 1 else "files that cannot be read are"
            facts["left out"] = f"{left_out} {are} named in {self.run.unreadable}"
        if images.passed_over:
            facts["passed over"] = counted(images.passed_over)
        if config.window is not None:
            mode = start.scan_mode(config, len(images))
            of = {"headers": "; of headers alone", "sample": f"; of {start.SAMPLE:,} images"}.get(mode, "")
            facts["grey range"] = describe(config.window) + of
        if (config.slices or 1) > 1:
            facts["slices"] = f"{config.slices} neighbouring ones are the channels of an image"
        if (config.mean, config.std) != (IMAGENET_MEAN, IMAGENET_STD):
            numbers = (" ".join(f"{value:g}" for value in values) for values in (config.mean, config.std))
            facts["normalised by"] = "mean {}, std {}".format(*numbers)
        if (channels := config.backbone_config.channels) != 3:
            facts["channels"] = f"{channels}, for which the first layer is built"
        if missing := left_out_of_views(config.views, channels):
            facts["views"] = f"without {', '.join(missing)}: defined for RGB, not for {channels} channels"
        if trainer.next_step:
            facts["resumed"] = f"at step {trainer.next_step}"
        if cuda:
            facts["cuda"] = cuda
        if origin is not None:
            facts["begins from"] = origin
        parameters = sum(parameter.numel() for parameter in backbone.parameters())
        begin = records.RunStart(config, trainer.at(trainer.next_step), len(images), parameters, facts, backbone)
        logger.info("training %s on %d images; %s", config.backbone, len(images), facts)
        method.eval()
        with trainer.uncompiled():
            self.tell(lambda listener: listener.started(begin))
        method.train()
        if origin is not None and (warning := start.washes_out(config)):
            self.warn(warning)
        before = read_config(self.run.path).accumulate if trainer.next_step else config.accumulate
        if before != config.accumulate and any(isinstance(module, _BatchNorm) for module in trainer.method.modules()):
            self.warn(
                f"--accumulate {config.accumulate} but the run began with {before}: batch norm sees batches of "
                "another size from here on, so the result is not that of a run without a stop"
            )

    def set_aside(self, damaged: Mapping[Path, str]) -> None:
        """Rename damaged checkpoints, so that they no longer count as the newest, and report which one is used."""
        if not distributed.is_main():
            return
        for path, fault in damaged.items():
            aside = path.with_name(f"{path.name}.damaged")
            with writing(path):
                path.replace(aside)
            used = checkpoint.step_path(path.parent, self.trainer.next_step)
            self.warn(f"{fault}. It is now {aside.name}, and the run continues from {used}")

    def run_to_end(self) -> RunResult:
        trainer, batches = self.trainer, self.trainer.batches()
        with stop_signals(twice_ends=True) as stop:
            try:
                self.make_steps(batches, stop)
                self.save(last=True)  # within: a signal must not end the writing
            except Exception as error:
                _explain(error, self.rescue())
                raise
            finally:
                batches.close()
            finished = trainer.next_step == trainer.total
            if finished:
                self.export()
        distributed.barrier()
        return RunResult(self.run.path, trainer.next_step, interrupted=not finished, is_main=distributed.is_main())

    def make_steps(self, batches: Batches[Views | DecodedBatch], stop: StopRequests) -> None:
        """Make all steps that are left. A device that works on its own is waited for as seldom as `is_due` says."""
        trainer, config, saving = self.trainer, self.config, self.config.saving
        alone = distributed.world_size() == 1
        laps: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # seconds of a step, and of its wait for data
        saved, lap_began = time.monotonic(), time.perf_counter()

        def by_time() -> bool:
            return time.monotonic() - saved > 60 * saving.every_minutes

        while trainer.next_step < trainer.total:
            wait_began = time.perf_counter()
            # In a group the batch is waited for, because all processes stop after the same step.
            views = stop.wait(lambda: next(batches)) if alone else next(batches)
            if views is None:
                break
            waited = time.perf_counter() - wait_began
            step = trainer.at(trainer.next_step)
            values = trainer.make_step(views)
            self.note_lost(step, views.unreadable)
            laps.append((time.perf_counter() - lap_began, waited))
            lap_began = time.perf_counter()
            seconds, waiting = map(sum, zip(*laps, strict=True))
            rates = {
                "images_per_second": config.batch_size * len(laps) / seconds,
                "waiting_for_data": waiting / seconds,
            }
            self.unread.append((step, values, rates))
            # In a group only what all processes know: one may be asked to stop before the others.
            if not (self.is_due(step) or (alone and (by_time() or stop))):
                continue
            self.report()
            every = config.evaluate_every * trainer.per_epoch
            if every and (trainer.next_step % every == 0 or trainer.next_step == trainer.total):
                self.evaluate()
                lap_began = time.perf_counter()
            stops, late, missing = distributed.totals(bool(stop), by_time(), len(self.lost), device=trainer.device)
            self.check_lost(step, int(missing))
            if distributed.is_main() and self.run.has_vanished():
                raise UserError(f"{self.run.path} was moved or deleted while the run was under way, so the run ends")
            if stops:  # in one process at least: a signal may reach each at another step
                break
            by_step = saving.every_steps > 0 and trainer.next_step % saving.every_steps == 0
            if (by_step or late) and trainer.next_step < trainer.total:
                self.save()
                saved = time.monotonic()
        self.report()

    def is_due(self, step: Step) -> bool:
        """Return whether the step's scalars are read when it has been made: always, unless that waits for a device.

        Then at the steps that are logged, at the ends of epochs and of the run, and before a checkpoint.
        """
        made, trainer, every = step.index + 1, self.trainer, self.config.saving.every_steps
        return (
            not trainer.deferred
            or step.index % self.config.log_every == 0
            or made % trainer.per_epoch == 0
            or made == trainer.total
            or (every > 0 and made % every == 0)
            or len(self.unread) >= WINDOW
        )

    def report(self) -> None:
        """Read the scalars of the steps made since the last report, and hand them on."""
        unread, self.unread = self.unread, []
        for step, scalars, rates in unread:
            self.trainer.check(step, scalars)
            record = StepRecord(step, {**scalars, **rates})
            verdict = self.monitor.judge(record.values)
            if verdict:
                self.warn(verdict.text, step.index)
            self.tell(lambda listener, record=record: listener.stepped(record))
            if verdict:
                self.tell(lambda listener, step=step, verdict=verdict: listener.diagnosed(step, verdict))
            if step.index % self.config.log_every == 0:
                self.tell(lambda listener, record=record: listener.logged(record))

    def evaluate(self) -> None:
        trainer, method = self.trainer, self.trainer.whole_method()
        if distributed.is_main():
            step, features = trainer.at(trainer.next_step - 1), trainer.recent_features()
            values = {"rank_me": rank_me(features), "feature_spread": float(feature_standard_deviation(features))}
            pictures: dict[str, np.ndarray] = {}

            def evaluate(listener: Listener) -> records.Observation:
                method.eval()
                return listener.evaluate(step, method)

            with trainer.uncompiled():
                evaluations = self.tell(evaluate)
            for evaluation in evaluations:
                values |= evaluation.values
                pictures |= evaluation.pictures
            method.train()
            self.tell(lambda listener: listener.logged(StepRecord(step, values, pictures)))
        distributed.barrier()

    def note_lost(self, step: Step, positions: Sequence[int]) -> None:
        """Log the images of a step that changed since the run began; report the first of an epoch to the person."""
        images = self.trainer.images
        for position in positions:
            line = (
                f"{images.name}/{images.keys[position]} was deleted, damaged or replaced during the run; if it cannot "
                "be read, the next image stands in"
            )
            if self.lost:
                logger.warning("%s", line)
            else:
                self.warn(line, step.index)
            self.lost.add(position)

    def check_lost(self, step: Step, missing: int) -> None:
        """Raise UserError if too many images, in all processes, changed within an epoch; report them at its end."""
        total, limit = len(self.trainer.images), self.config.max_unreadable
        line = f"{missing} of {total} images were deleted, damaged or replaced during the run"
        if missing > limit * total and self.trainer.next_step < self.trainer.total:
            raise UserError(f"{line}, more than {100 * limit:g}%: put them back, or begin a new run without them")
        if self.trainer.next_step % self.trainer.per_epoch == 0:
            if missing:
                self.warn(f"epoch {step.epoch + 1}: {line}; above {100 * limit:g}% the run ends", step.index)
            self.lost.clear()

    def save(self, *, last: bool = False) -> None:
        """Write a checkpoint and delete the oldest. If that fails, report it and continue, except after the `last`."""
        snapshot = self.trainer.snapshot() if self.trainer.sharded else None  # by all, and once
        if not distributed.is_main():
            return
        try:
            self.write_checkpoint(snapshot)
        except OSError as error:
            line = f"the checkpoint after step {self.trainer.next_step} could not be written: {error}"
            if last:
                raise UserError(f"{line}. Free space, then --resume") from error
            newest = checkpoint.latest(self.run.checkpoints)
            self.warn(f"{line}; {f'{newest.name} is whole' if newest else 'there is no earlier one'}")
        else:
            checkpoint.prune(self.run.checkpoints, self.config.saving.keep)

    def write_checkpoint(self, snapshot: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> None:
        path = checkpoint.step_path(self.run.checkpoints, self.trainer.next_step)
        path.parent.mkdir(parents=True, exist_ok=True)  # it may be gone
        self.making_room(functools.partial(self.trainer.save, path, snapshot))

    def making_room(self, write: Callable[[], object]) -> None:
        """Write, and on a full disk delete older checkpoints and try again; the newest one stays."""
        expendable = sorted(self.run.checkpoints.glob("step-*.safetensors"))[:-1]
        while True:
            try:
                write()
                return
            except OSError as error:
                if not (expendable and is_full(error)):
                    raise
                logger.warning("the disk is full: %s is deleted to make room", expendable[0])
                expendable.pop(0).unlink()

    def export(self) -> None:
        exported, backbone = self.run.exported, self.trainer.whole_method().evaluated_backbone
        if not distributed.is_main():
            return
        try:
            self.making_room(functools.partial(checkpoint.export_backbone, exported, backbone))
        except OSError as error:
            raise UserError(
                f"training is done and its checkpoint written, but not {exported}: {error}. Free space, then --resume"
            ) from error

    def rescue(self) -> str:
        """Save a run that failed, if its weights are finite; return what there is to continue from."""
        distributed.leave()
        if not distributed.is_main():
            return ""
        trainer, run = self.trainer, self.run
        try:
            trainer.rewind()
            # A step whose records are not all written is made again.
            recorded = not any(listener.essential and listener.faults for listener in self.listeners)
            new = not checkpoint.step_path(run.checkpoints, trainer.next_step).exists()
            # A sharded run cannot be: the other processes may be gone.
            if trainer.whole and not trainer.sharded and recorded and new and trainer.is_finite():
                run.make_again(trainer.config)
                self.write_checkpoint()
        except Exception as error:  # whatever it is, it must not hide why the run ends
            logger.error("the checkpoint after step %d could not be written: %s", trainer.next_step, error)
        newest = checkpoint.latest(run.checkpoints)
        return f"{newest} is whole: --resume continues from it" if newest else "There is no checkpoint to continue from"


def _explain(error: Exception, rescued: str) -> None:
    """Raise UserError, one line for a person; return for a fault of the program."""
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
            error.add_note(rescued)
        return
    text = ". ".join(filter(None, (line, rescued)))
    if distributed.is_main():
        logger.error("the run ends: %s", text)
    raise UserError(text) from error


def patience(total: int) -> int:
    """Return the number of steps of a run of `total` before the first verdict on it."""
    return max(300, total // 10)


class CollapseMonitor:
    """Judges the mean of the last `window` steps, and only after `patience` steps: every run starts uniform.

    diagnose: the method's judgement of mean values; None is healthy.
    steps: made before; a run that continues fills its window again.
    """

    def __init__(
        self,
        diagnose: Callable[[Mapping[str, float]], Verdict | None],
        patience: int,
        window: int = WINDOW,
        steps: int = 0,
    ) -> None:
        self.diagnose, self.patience, self.steps = diagnose, patience, steps
        self.recent: deque[Mapping[str, float]] = deque(maxlen=window)
        self.reported: set[str] = set()

    def judge(self, values: Mapping[str, float]) -> Verdict | None:
        """Take in one step's scalars; return a verdict the first time that its kind of collapse is seen, else None."""
        self.steps += 1
        self.recent.append(values)
        if self.steps < self.patience or len(self.recent) < (self.recent.maxlen or 0):
            return None
        verdict = self.diagnose({name: sum(step[name] for step in self.recent) / len(self.recent) for name in values})
        if verdict is None or verdict.kind in self.reported:
            return None
        self.reported.add(verdict.kind)
        return verdict
