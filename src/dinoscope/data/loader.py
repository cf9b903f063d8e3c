"""Batches of views: which images a step sees is a pure function of the step, so any run can go on from any step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dinoscope.data.apply import multi_crop
from dinoscope.data.decode import UnreadableImage, decode
from dinoscope.data.folder import ImageFolder
from dinoscope.data.grey_range import Window
from dinoscope.data.views import ViewsConfig
from dinoscope.types import Views


@dataclass(frozen=True)
class Sample:
    """One image's views, [views, height, width, 3] uint8, with its position and class (-1: none)."""

    global_views: Tensor
    local_views: Tensor | None
    index: int
    label: int
    replaced: int | None = None


class ViewsDataset(Dataset[Sample]):
    """Item (epoch, index) is the image's views in that epoch, whichever process asks.

    window: grey range of images of more than 8 bits; None takes that of each image.
    """

    def __init__(self, folder: ImageFolder, config: ViewsConfig, seed: int, window: Window | None = None) -> None:
        self.folder, self.config, self.seed, self.window = folder, config, seed, window

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image, used = self._readable(index)
        large, small = multi_crop(image, self.config, seed=self.seed, epoch=epoch, index=index)
        return Sample(
            torch.from_numpy(large),
            None if small is None else torch.from_numpy(small),
            used,
            -1 if self.folder.labels is None else self.folder.labels[used],
            replaced=None if used == index else index,
        )

    def _readable(self, index: int) -> tuple[np.ndarray, int]:
        """The image, or the next one in order that can be read: the same on every run."""
        for offset in range(len(self.folder)):
            candidate = (index + offset) % len(self.folder)
            try:
                return decode(self.folder.path(candidate), window=self.window), candidate
            except UnreadableImage:
                continue
        raise UnreadableImage(f"none of the {len(self.folder)} images below {self.folder.root} can be read any more")


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of each step from `first` on: a new permutation per epoch, the odd rest left out.

    The global batch is cut into contiguous parts, one per process, so that all parts in order are the batch of
    a single process.
    """

    def __init__(self, images: int, batch_size: int, seed: int, steps: range, *, rank: int, processes: int) -> None:
        self.images, self.batch_size, self.seed, self.steps = images, batch_size, seed, steps
        self.part = batch_size // processes
        self.start = rank * self.part

    @property
    def per_epoch(self) -> int:
        """Steps in one pass over the images."""
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in self.steps:
            epoch, position = divmod(step, self.per_epoch)
            if epoch != current:
                current, order = epoch, permutation(self.images, self.seed, epoch)
            begin = position * self.batch_size + self.start
            yield [(epoch, int(index)) for index in order[begin : begin + self.part]]

    def __len__(self) -> int:
        return len(self.steps)


def permutation(images: int, seed: int, epoch: int) -> np.ndarray:
    """Order of the images in an epoch: a pure function of its arguments."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def collate(samples: list[Sample]) -> Views:
    """Stack a batch along dimension 1, behind the views; channels move to the front without a copy."""
    small = [sample.local_views for sample in samples if sample.local_views is not None]
    labels = torch.tensor([sample.label for sample in samples])
    return Views(
        torch.stack([sample.global_views for sample in samples], dim=1).movedim(-1, 2),
        torch.stack(small, dim=1).movedim(-1, 2) if small else None,
        torch.tensor([sample.index for sample in samples]),
        None if int(labels[0]) < 0 else labels,
        tuple(sample.replaced for sample in samples if sample.replaced is not None),
    )


def view_loader(dataset: ViewsDataset, sampler: StepSampler, workers: int, *, pin: bool) -> Iterable[Views]:
    """Batches of `Views` for the steps of `sampler`, in order, the same with any number of workers."""
    # Before the fork, not after it: a worker that inherits OpenCV's thread pool waits for ever when it touches it.
    cv2.setNumThreads(1)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_quiet_worker,
    )
    return cast(Iterable[Views], loader)  # collate makes views of samples


def default_workers(processes: int) -> int:
    """Loader processes per training process: the cores this process may use, shared, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // processes - 1, 1), 16)


def _quiet_worker(number: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; only the main process answers them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
