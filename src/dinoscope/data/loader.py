"""Batches of views: which images a step sees is a pure function of the step, so any run can resume at any step."""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dinoscope.data.augment import multi_crop
from dinoscope.data.augment_torch import DecodedBatch, decoded_crop
from dinoscope.data.grey_range import Window
from dinoscope.data.masking import PatchMasking
from dinoscope.data.mixing import Mixing
from dinoscope.data.reader import Reduction, Shrink, UnreadableImage
from dinoscope.data.sources import ImageSource
from dinoscope.data.views import ViewsConfig, largest_divisor
from dinoscope.errors import UserError
from dinoscope.system import available_cores
from dinoscope.types import Views

T = TypeVar("T")

PATIENCE = 1800.0
"""Seconds without a batch after which the loader processes are taken to be stuck. Longer than any image takes."""

LEAVING = 5.0
"""Seconds that a loader process has to end by itself."""

_TRIES = 100  # images in a row that may be unreadable, or a twentieth of the folder
_GLANCE = 0.2  # seconds between two checks whether it is time to end
_DYING = 2.0  # seconds until the system has told of the end of a process

Sample = tuple[Tensor, Any, int, int | None, int | None, Tensor | None, Tensor | None]
"""Global and local views of one image, [views, height, width, channels] uint8, its position, its label, the position of
the image that it stands for, if that cannot be read or is not the one the run began with, its masks, [views, patches],
and how its views are mixed with those of another image, [views, 5].

If views are not made in the loader: the image, [height, width, channels], and the parameters of its views instead."""


class ViewsDataset(Dataset[Sample]):
    """Item (epoch, index) is the image's views in that epoch, whichever process requests them.

    window: grey range of images of more than 8 bits; None takes that of each image.
    sizes: of the images in bytes as the run began; an image of another size is reported as replaced, and used.
    config: if its device is not the CPU, the views are left to `augment_torch`.
    reduced: decode an image at a reduced size (a JPEG) if its views in that epoch allow it (`views.largest_divisor`).
    masking: of the patches of global views, if the method hides some.
    mixing: of views with those of other images, if the method mixes them.
    channels: of the views; an image that cannot be brought to them counts as unreadable.
    """

    def __init__(
        self,
        images: ImageSource,
        config: ViewsConfig,
        seed: int,
        window: Window | None = None,
        sizes: Sequence[int] | None = None,
        *,
        reduced: bool = False,
        masking: PatchMasking | None = None,
        mixing: Mixing | None = None,
        channels: int = 3,
    ) -> None:
        self.images, self.config, self.seed, self.window, self.reduced = images, config, seed, window, reduced
        self.decoded, self.masking, self.mixing = config.device != "cpu", masking, mixing
        self.channels = channels
        self.view_sizes = (config.global_size,) * config.num_global + (config.local_size,) * config.num_local
        self.sizes = None if sizes is None else np.asarray(sizes, np.int64)  # an array, which workers share

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        shrink = functools.partial(largest_divisor, self.config, self.seed, epoch, index) if self.reduced else None
        pixels, reduction, used = self._readable(index, shrink)
        make = decoded_crop if self.decoded else multi_crop
        first, second = make(pixels, self.config, self.seed, epoch, index, reduction)
        replaced = used != index
        if self.sizes is not None and (stamp := self.images.stamp(index)) is not None:
            replaced |= stamp[0] < 0 or stamp[0] != int(self.sizes[index])
        second = torch.from_numpy(second) if isinstance(second, np.ndarray) else second
        label = None if self.images.labels is None else self.images.labels[used]
        count = self.config.num_global
        masks = self.masking and torch.from_numpy(self.masking.sample(self.seed, epoch, index, count))
        mixes = self.mixing and torch.from_numpy(self.mixing.sample(self.seed, epoch, index, self.view_sizes))
        return torch.from_numpy(first), second, used, label, index if replaced else None, masks, mixes

    def _readable(self, index: int, shrink: Shrink | None) -> tuple[UInt8[np.ndarray, "h w c"], Reduction | None, int]:
        """Return the image, or the next one in order that can be read: the same on every run. And its number.

        Raises UnreadableImage if so many in a row cannot be read that the folder must be gone.
        """
        count = len(self.images)
        tries = min(count, max(_TRIES, count // 20))
        for offset in range(tries):
            candidate = (index + offset) % count
            with contextlib.suppress(UnreadableImage):
                image = self.images.read(candidate, shrink)
                return image.pixels(self.channels, self.window), image.reduction, candidate
        which = (
            f"none of the {count} images below {self.images.name} can"
            if tries == count
            else f"{self.images.name}/{self.images.keys[index]} and the {tries - 1} images after it cannot"
        )
        raise UnreadableImage(f"{which} be read any more")


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of each of the steps: a new permutation per epoch, the odd rest left out.

    The global batch is cut into contiguous parts, one per process, so that all parts in order are the batch of
    a single process.

    shuffle: the order of the images in an epoch, from (seed, epoch); None is `permutation`.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        steps: range,
        *,
        rank: int,
        processes: int,
        shuffle: Callable[[int, int], np.ndarray] | None = None,
    ) -> None:
        self.images, self.batch_size, self.seed, self.steps = images, batch_size, seed, steps
        self.shuffle = functools.partial(permutation, images) if shuffle is None else shuffle
        self.per_epoch = images // batch_size
        self.part = batch_size // processes
        self.start = rank * self.part

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in self.steps:
            epoch, position = divmod(step, self.per_epoch)
            if epoch != current:
                current, order = epoch, self.shuffle(self.seed, epoch)
            begin = position * self.batch_size + self.start
            yield [(epoch, int(index)) for index in order[begin : begin + self.part]]

    def __len__(self) -> int:
        return len(self.steps)


def permutation(images: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the images in an epoch: a pure function of its arguments."""
    return np.random.default_rng([seed, epoch]).permutation(images)


WINDOW = 16
"""Blocks among whose images a block shuffle mixes."""


def block_permutation(disk_order: np.ndarray, block: int, seed: int, epoch: int) -> np.ndarray:
    """Return an order in which images that lie next to each other on the disk are read soon after each other.

    Blocks of `block` images are permuted, and then the images within each window of 16 blocks: a pure function of its
    arguments. disk_order: `ImageSource.disk_order`.
    """
    generator = np.random.default_rng([seed, epoch])
    starts = generator.permutation(-(-len(disk_order) // block)) * block
    places = (starts[:, None] + np.arange(block)).ravel()
    places = places[places < len(disk_order)]
    for start in range(0, len(places), WINDOW * block):
        generator.shuffle(places[start : start + WINDOW * block])
    return disk_order[places]


def collate(samples: list[Sample]) -> Views:
    """Stack a batch along dimension 1, behind the views; channels move to the front without a copy."""
    global_views, local_views, positions, labels, replaced, masks, mixes = zip(*samples, strict=True)
    return Views(
        torch.stack(global_views, dim=1).movedim(-1, 2),
        None if local_views[0] is None else torch.stack(local_views, dim=1).movedim(-1, 2),
        torch.tensor(positions),
        None if labels[0] is None else torch.tensor(labels),
        tuple(position for position in replaced if position is not None),
        None if masks[0] is None else torch.stack(masks, dim=1),
        None if mixes[0] is None else torch.stack(mixes, dim=1),
    )


def collate_decoded(num_global: int, samples: list[Sample]) -> DecodedBatch:
    """Lay the images of a batch one behind the other."""
    images, drawn, positions, labels, replaced, masks, mixes = zip(*samples, strict=True)
    return DecodedBatch(
        torch.cat([image.flatten() for image in images]),
        tuple((image.shape[0], image.shape[1]) for image in images),
        drawn,
        num_global,
        torch.tensor(positions),
        None if labels[0] is None else torch.tensor(labels),
        tuple(position for position in replaced if position is not None),
        None if masks[0] is None else torch.stack(masks, dim=1),
        images[0].shape[2],
        None if mixes[0] is None else torch.stack(mixes, dim=1),
    )


def view_loader(dataset: ViewsDataset, sampler: StepSampler, workers: int, *, pin: bool) -> Batches[Any]:
    """Return batches of `Views` for the steps of `sampler`, in order, the same with any number of workers.

    If the dataset leaves the views to the device, they are `DecodedBatch`es, whose `to` makes `Views`.
    """
    join = functools.partial(collate_decoded, dataset.config.num_global) if dataset.decoded else collate
    ahead = 4 if workers else None
    return Batches(dataset, workers, batch_sampler=sampler, collate_fn=join, pin_memory=pin, prefetch_factor=ahead)


class Batches(Iterator[T], Generic[T]):
    """The batches of a torch `DataLoader`, whose processes never outlive this one and never make it wait for ever.

    Workers leave Ctrl-C and SIGTERM, which reach a whole process group, to the main process. They end at `close`, when
    this process ends in whatever way, or when this object is deleted.

    workers: number of processes. patience: seconds without a batch after which they are ended. options: the loader's.

    Raises UserError from `next` if a worker died or no batch came in time.
    """

    def __init__(self, dataset: Dataset[Any], workers: int, *, patience: float = PATIENCE, **options: Any) -> None:
        # Before the fork, not after it: a worker that inherits OpenCV's thread pool waits for ever when it touches it.
        cv2.setNumThreads(1)
        self.patience = patience
        self.asked: float | None = None
        self.workers: list[BaseProcess] = []
        self.ended = RawValue("b", 0)  # without a lock, which a worker that was killed might hold
        self.close = functools.partial(_end_workers, self.ended, self.workers)
        # Registered after multiprocessing's own, so called before it: that one waits for its children without limit.
        atexit.register(self.close)
        before = multiprocessing.active_children()
        start = functools.partial(_start_worker, self.ended)
        with _without_alarms():
            self.iterator = iter(DataLoader(dataset, num_workers=workers, worker_init_fn=start, **options))
        self.workers += [child for child in multiprocessing.active_children() if child not in before]
        if self.workers:
            threading.Thread(target=_end_stuck, args=(weakref.ref(self),), daemon=True).start()

    def __next__(self) -> T:
        self._check_workers()
        self.asked = time.monotonic()
        try:
            return next(self.iterator)
        except (RuntimeError, ConnectionError, EOFError) as error:  # the last two if a worker dies as it hands over
            waited = time.monotonic() - self.asked
            if self.ended.value:
                raise UserError(
                    f"no batch of images came for {waited:.0f} s, so the loader processes were ended: see whether the "
                    "folder of images can be read"
                ) from error
            self._wait_for_an_end()
            self._check_workers()
            raise
        except (UserError, UnreadableImage) as error:
            message = str(error)
            if message.startswith("Caught "):  # torch puts the traceback before it when it comes from a worker
                message = message.strip().splitlines()[-1].partition(": ")[2]
            raise type(error)(message) from error
        finally:
            self.asked = None

    def _wait_for_an_end(self) -> None:
        """Wait until the system reports the end of a worker that has just died, which may take it a moment."""
        closed = connection.wait([worker.sentinel for worker in self.workers], _DYING)
        for worker in self.workers:
            if worker.sentinel in closed:
                worker.join(_DYING)  # its exit code comes a moment after its files are closed

    def _check_workers(self) -> None:
        """Raise UserError if a worker has died; what it was asked for will not come."""
        code = next((worker.exitcode for worker in self.workers if worker.exitcode), None)
        if code == -9:
            raise UserError(
                "a loader process was killed (signal 9): the machine may be out of memory, so take fewer --workers"
            )
        if code is not None:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise UserError(f"a loader process {how}")

    def __del__(self) -> None:
        if hasattr(self, "close"):
            self.close()
            atexit.unregister(self.close)


def default_workers(processes: int) -> int:
    """Return the loader processes per training process: the cores this process may use, shared, at most 16."""
    return min(max(available_cores() // processes - 1, 1), 16)


def workers_for(asked: int) -> int:
    """Return the loader processes of a single process: as many as were asked for; below 0, `default_workers`."""
    return default_workers(processes=1) if asked < 0 else asked


def _start_worker(ended: Any, number: int) -> None:
    """Leave the signals that reach the whole process group to the main process, and end with it."""

    def end_with_parent() -> None:  # or when the main process sets `ended`, even in the middle of an image
        parent = multiprocessing.parent_process()
        while parent is not None and parent.is_alive() and not ended.value:
            parent.join(_GLANCE)
        os._exit(0)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # no SIGHUP on Windows
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def _end_workers(ended: Any, workers: Sequence[BaseProcess]) -> None:
    """Let the workers end, and kill those that do not."""
    ended.value = 1
    deadline = time.monotonic() + LEAVING
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.is_alive():  # stopped, or deep in a system call
            worker.kill()


def _end_stuck(reference: weakref.ref[Batches[Any]]) -> None:
    """End the workers if a batch is overdue: then torch tells whoever waits for it that they are gone."""
    while (batches := reference()) is not None and not batches.ended.value:
        if batches.asked is not None and time.monotonic() - batches.asked > batches.patience:
            batches.close()
        del batches
        time.sleep(_GLANCE)


@contextlib.contextmanager
def _without_alarms() -> Iterator[None]:
    """Keep torch from raising, in the middle of whatever this process does, when a worker dies: `next` raises."""
    alarm = getattr(signal, "SIGCHLD", None)  # none on Windows
    if alarm is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(alarm)
    try:
        yield
    finally:
        signal.signal(alarm, handler)
