"""Everything that needs a GPU, in one run of at most four minutes: speed, memory, data and curves, as one table.

    python benchmarks/gpu.py [--reference PATH_TO_DINO_CHECKOUT] [--seconds 240] [--json FILE]
    python benchmarks/gpu.py --rehearse        # the same from start to end on a CPU, with tiny networks

It needs torch and the packages of dinoscope's training (timm, jaxtyping, safetensors, opencv...), and no other file.

- DINO steps of ViT-S/16 with 2 x 224 + 8 x 96 px crops and of ResNet-50, K = 65,536, batch 64: images/s, MFU and peak
  memory, ours and the reference's, eager and with torch.compile of each block, in bf16 and fp16. Views are made
  beforehand and lie in pinned memory. There is no stochastic depth, since each of its rates is compiled by itself.
  MFU: the multiplications and additions that torch's counter sees in a step, by the device's peak.
- `dino_deit_small_300ep` with an effective batch of 64 under a cap of 4 GB: ours cut by --accumulate and
  --checkpoint-activations, the reference as it is.
- Data: JPEGs of 500 x 375 px, read by the loader alone, and trained on: the share of time that the step loses to it.
- 50 steps of the quickstart's recipe in float32 on CPU and GPU: largest relative difference of the losses, at most 1 %.

What would begin after --seconds is left out and said so. Every row stands by itself: one that fails names its error.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from dinoscope.data.finding import find_images
from dinoscope.data.sources import ImageFolder
from dinoscope.recipes import run_config
from dinoscope.system import autocast, available_cores, exact_cuda, machine
from dinoscope.training import trainer as trainer_module
from dinoscope.training.config import RunConfig
from dinoscope.training.trainer import Trainer
from dinoscope.types import Views

PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "RTX 4090": 165.2, "V100": 125.0}
"""TFLOP/s of dense bf16 (V100: fp16) products, float32 accumulation, by the vendor's data sheets (SXM parts)."""

CAP = 4 * 2**30
CURVE_STEPS, CURVE_TOLERANCE = 50, 0.01


@dataclass(frozen=True)
class Sizes:
    """What is measured; the rehearsal's is tiny."""

    networks: dict[str, tuple[str, str]]  # title -> ours, the reference's
    batch: int
    outputs: int
    hidden: int
    views: tuple[int, int]
    parts: int  # micro-batches under the cap
    images: int  # of the data row
    seconds: float  # of a speed row
    curve_steps: int


FULL = Sizes(
    {"ViT-S/16": ("vit_small_patch16_224", "vit_small"), "ResNet-50": ("resnet50", "resnet50")},
    *(64, 65536, 2048, (224, 96), 16, 2048, 3.0, CURVE_STEPS),
)
TINY = Sizes(
    {"ViT-micro/16": ("vit_micro_patch16_64", "vit_tiny"), "ResNet-micro": ("resnet_micro", "resnet18")},
    *(2, 64, 64, (64, 32), 2, 8, 0.0, 3),
)


def main() -> None:
    """Measure what there is time for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument(
        "--peak", type=float, help="TFLOP/s of the device, for MFU; without it from a list, else torch.mm"
    )
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begun = time.perf_counter()
    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device: --rehearse runs the script on the CPU")
    device, sizes = torch.device("cpu" if options.rehearse else "cuda"), TINY if options.rehearse else FULL
    if options.rehearse:
        trainer_module.COMPILING = {"backend": "aot_eager", "dynamic": False}
    with exact_cuda(device) as settings, tempfile.TemporaryDirectory() as folder:
        product = rate_of_products(device)
        listed = (peak for name, peak in PEAKS.items() if name in machine(device).name)
        peak = options.peak or next(listed, product)
        print(f"{machine(device).line()}; {settings or 'a rehearsal: its figures mean nothing'}")
        print(f"torch.mm in bf16: {product:.1f} TFLOP/s; MFU is of {peak:.1f} TFLOP/s; batch {sizes.batch}", flush=True)
        bench = Bench(device, sizes, peak, options.reference, Path(folder))
        rows: dict[str, str] = {}
        for title, measure in bench.rows().items():
            if time.perf_counter() - begun > options.seconds:
                rows[title] = "not measured: out of time"
            else:
                rows[title] = attempt(measure)
            print(f"  {title:<40} {rows[title]}", flush=True)  # at once: a run that is cut off leaves what it has
    print(f"{time.perf_counter() - begun:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def attempt(measure: Callable[[], str]) -> str:
    """Return what was measured, or in one line why it was not."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        return "out of memory"
    except Exception as error:  # the other rows are still wanted
        return f"failed: {type(error).__name__}: {str(error).strip()[:160]}".replace("\n", " ")
    finally:
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Bench:
    """The rows of the table, by title: what is wanted most comes first."""

    def __init__(self, device: torch.device, sizes: Sizes, peak: float, reference: Path | None, folder: Path) -> None:
        self.device, self.sizes, self.peak, self.reference, self.folder = device, sizes, peak, reference, folder

    def rows(self) -> dict[str, Callable[[], str]]:
        rows: dict[str, Callable[[], str]] = {}
        sides = ["ours", "reference"] if self.reference else ["ours"]

        def speed(title: str, precision: str, compiled: bool) -> None:
            for side in sides:
                name = f"{title} {precision} {'compiled' if compiled else 'eager'} {side}"
                rows[name] = functools.partial(self.speed, side, title, precision, compiled)

        for title in self.sizes.networks:
            speed(title, "bf16", compiled=False)
        for side in sides:
            rows[f"4 GB, effective batch {self.sizes.batch}, {side}"] = functools.partial(self.capped, side)
        rows["data"] = self.data
        rows[f"{self.sizes.curve_steps} steps, float32, CPU and GPU"] = self.curves
        for precision, compiled in (("bf16", True), ("fp16", False), ("fp16", True)):
            for title in self.sizes.networks:
                speed(title, precision, compiled)
        return rows

    def config(self, network: str, precision: str) -> RunConfig:
        """DINO's settings of 300 epochs: they train the norms of the last layer, as `reference_step` does."""
        sizes, transformer = self.sizes, "vit" in network
        config = run_config("dino_deit_small_300ep" if transformer else "dino_resnet50", self.folder, self.folder)
        views = replace(config.views, global_size=sizes.views[0], local_size=sizes.views[1])
        method = replace(config.method, out_dim=sizes.outputs, hidden_dim=sizes.hidden, norm_last_layer=False)
        config = replace(config, backbone=network, method=method, views=views, drop_path=0.0)
        # In a rehearsal the names of precisions stand for float32: many CPUs only imitate the others.
        config = replace(config, precision=precision if self.device.type == "cuda" else "fp32")
        return replace(config, batch_size=sizes.batch)

    def trainer(self, config: RunConfig) -> Trainer:
        names = tuple(f"{number}.jpg" for number in range(100 * config.batch_size))
        trainer = Trainer(config, ImageFolder(self.folder, names, None, ()), self.device)
        trainer.next_step = trainer.total // 2
        return trainer

    def step(self, side: str, title: str, precision: str, compiled: bool) -> Callable[[], object]:
        ours, theirs = self.sizes.networks[title]
        views = self.views()
        if side == "reference":
            return self.reference_step(theirs, precision, compiled, views)
        trainer = self.trainer(replace(self.config(ours, precision), compile=compiled))
        return lambda: trainer.make_step(views)

    def speed(self, side: str, title: str, precision: str, compiled: bool) -> str:
        reset_peak(self.device)
        step = self.step(side, title, precision, compiled)
        begin = time.perf_counter()
        step()
        synchronize(self.device)
        first = time.perf_counter() - begin
        step()
        with FlopCounterMode(display=False) if not compiled else contextlib.nullcontext() as counter:
            step()
        seconds = time_steps(step, self.device, self.sizes.seconds)
        text = f"{self.sizes.batch / seconds:8.1f} images/s  {1000 * seconds:7.1f} ms a step"
        if counter is not None:
            flops = counter.get_total_flops()
            self.flops = getattr(self, "flops", {}) | {(side, title): flops}
        if flops := getattr(self, "flops", {}).get((side, title)):
            text += f"  MFU {flops / seconds / self.peak / 1e10:5.1f} %"
        return text + f"  {peak_text(self.device)}  first step {first:.1f} s"

    def capped(self, side: str) -> str:
        title = next(iter(self.sizes.networks))
        with memory_cap(self.device) as cap:
            reset_peak(self.device)
            if side == "reference":
                step = self.reference_step(self.sizes.networks[title][1], "bf16", compiled=False, views=self.views())
            else:
                config = replace(self.config(self.sizes.networks[title][0], "bf16"), drop_path=0.1)
                config = replace(config, accumulate=self.sizes.parts, checkpoint_activations=True)
                trainer, views = self.trainer(config), self.views()
                step = functools.partial(trainer.make_step, views)
            step()
            seconds = time_steps(step, self.device, self.sizes.seconds / 2)
            return f"{self.sizes.batch / seconds:8.1f} images/s  {peak_text(self.device)}  {cap}"

    def data(self) -> str:
        """Train on files, beside training on one batch that lies ready, and beside reading alone."""
        sizes, folder = self.sizes, self.folder / "jpegs"
        write_jpegs(folder, sizes.images)
        network = next(iter(sizes.networks.values()))[0]
        config = replace(self.config(network, "bf16"), data=folder, epochs=10_000, log_every=10_000)
        config = replace(config, optimizer=replace(config.optimizer, warmup_epochs=0))
        trainer = Trainer(config, find_images(folder), self.device)
        batches = trainer.batches()
        try:
            views = next(batches)
            ready = time_steps(lambda: trainer.make_step(views), self.device, sizes.seconds)
            for _ in range(2):  # what was read ahead meanwhile
                next(batches)
            reading = time_steps(lambda: next(batches), torch.device("cpu"), 2 * sizes.seconds)
            both = time_steps(lambda: trainer.make_step(next(batches)), self.device, 2 * sizes.seconds)
        finally:
            batches.close()
        read, made, trained = (sizes.batch / seconds for seconds in (reading, ready, both))
        return (
            f"read {read:.0f} images/s with {available_cores()} cores, step alone {made:.0f}, both {trained:.0f}: "
            f"{max(0.0, 1 - trained / made):.0%} of the time is waiting for data"
        )

    def curves(self) -> str:
        folder = self.folder / "curves"
        write_jpegs(folder, 256, size=(48, 48))
        config = run_config("quickstart", folder, folder)
        config = replace(config, precision="fp32", threads=0, workers=0, batch_size=128 if self.sizes is FULL else 8)
        losses: list[list[float]] = []
        for device in (torch.device("cpu"), self.device):
            trainer = Trainer(config, find_images(folder), device)
            views = itertools.islice(curve_views(config), self.sizes.curve_steps)
            steps = [trainer.make_step(batch) for batch in views]
            losses.append([step["loss"] for step in steps])
        difference = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
        verdict = "equal" if difference <= CURVE_TOLERANCE else "NOT EQUAL"
        return (
            f"{verdict}: losses {losses[0][-1]:.4f} and {losses[1][-1]:.4f} at the end, largest relative difference "
            f"{difference:.1e} (tolerance {CURVE_TOLERANCE:g})"
        )

    def views(self) -> Views:
        sizes, generator = self.sizes, torch.Generator().manual_seed(0)
        large, small = (
            torch.randint(0, 256, (count, sizes.batch, 3, size, size), dtype=torch.uint8, generator=generator)
            for count, size in zip((2, 8), sizes.views, strict=True)
        )
        views = Views(large, small, torch.arange(sizes.batch))
        return views.pin_memory() if self.device.type == "cuda" else views

    def reference_step(self, network: str, precision: str, compiled: bool, views: Views) -> Callable[[], object]:
        """The reference's networks, loss and helpers in the order of its training loop, without its DDP of one process.

        It has no bf16; its autocast is given that type.
        """
        import torch.distributed as dist

        assert self.reference is not None
        if str(self.reference) not in sys.path:
            sys.path.insert(0, str(self.reference))
        import main_dino
        import utils
        import vision_transformer as vits
        from torchvision import models

        device, outputs = self.device, self.sizes.outputs
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        if device.type == "cpu":
            torch.Tensor.cuda = lambda self, *args, **kwargs: self
            torch.nn.Module.cuda = lambda self, *args, **kwargs: self

        def build(**options: object) -> torch.nn.Module:
            if "vit" in network:
                backbone = vits.__dict__[network](patch_size=16)
                dim, parts = backbone.embed_dim, list(backbone.blocks)
            else:
                backbone = models.__dict__[network]()
                dim = backbone.fc.weight.shape[1]
                parts = [
                    block for name in ("layer1", "layer2", "layer3", "layer4") for block in getattr(backbone, name)
                ]
            for part in parts if compiled else []:
                part.compile(**trainer_module.COMPILING)
            return utils.MultiCropWrapper(backbone, vits.DINOHead(dim, outputs, **options)).cuda()

        student, teacher = build(norm_last_layer=False), build()
        teacher.load_state_dict(student.state_dict())
        for parameter in teacher.parameters():
            parameter.requires_grad = False
        loss_of = main_dino.DINOLoss(outputs, 10, 0.04, 0.04, 0, 100).cuda()
        groups = utils.get_params_groups(student)
        optimizer = torch.optim.AdamW(groups) if "vit" in network else torch.optim.SGD(groups, lr=0, momentum=0.9)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        assert views.local_views is not None
        host = [((view.float() / 255 - mean) / std) for view in [*views.global_views, *views.local_views]]
        host = [view.pin_memory() for view in host] if device.type == "cuda" else host

        def step() -> None:
            for group in optimizer.param_groups:
                group["lr"] = 1e-5
            images = [view.cuda(non_blocking=True) for view in host]
            with autocast(precision if device.type == "cuda" else "fp32", device):
                teacher_output = teacher(images[:2])
                loss = loss_of(student(images), teacher_output, 1)
            loss.item()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            utils.clip_gradients(student, 3.0)
            utils.cancel_gradients_last_layer(1, student, 1)
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                for ours, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
                    theirs.data.mul_(0.996).add_((1 - 0.996) * ours.detach().data)
            synchronize(device)

        return step


def curve_views(config: RunConfig) -> Iterator[Views]:
    """The run's batches, epoch after epoch, made by the CPU for both devices."""
    return Trainer(replace(config, epochs=10_000), find_images(config.data), torch.device("cpu")).batches()


def write_jpegs(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Write smooth random pictures: a coarse grid of colours, enlarged."""
    folder.mkdir()
    random = np.random.default_rng(0)
    drawn = [Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size) for _ in range(64)]
    for number in range(count):
        drawn[number % 64].save(folder / f"{number:05d}.jpg", quality=90 - number // 64 % 20)


def rate_of_products(device: torch.device) -> float:
    """TFLOP/s of torch.mm in bf16."""
    side = 8192 if device.type == "cuda" else 256
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.mm(one, other)
    return 2 * side**3 / time_steps(lambda: torch.mm(one, other), device, 0.3) / 1e12


def time_steps(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of a step: as many as are begun in this time, two at least, of which the device has finished all."""
    synchronize(device)
    begin, made = time.perf_counter(), 0
    while made < 2 or time.perf_counter() - begin < seconds:
        step()
        made += 1
        if made % 10 == 0:
            synchronize(device)  # as at the steps that are logged
    synchronize(device)
    return (time.perf_counter() - begin) / made


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Begin to watch the memory of a row."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_text(device: torch.device) -> str:
    """What torch had allocated at most, and reserved of the device."""
    if device.type != "cuda":
        return "memory: not on a CPU"
    used, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return f"{used / 2**30:.2f} GiB ({reserved / 2**30:.2f} reserved)"


@contextlib.contextmanager
def memory_cap(device: torch.device) -> Iterator[str]:
    """Let torch take no more than 4 GB of the device."""
    if device.type != "cuda":
        yield "no cap on a CPU"
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(CAP / torch.cuda.get_device_properties(device).total_memory, device)
    try:
        yield "of 4 GiB"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


if __name__ == "__main__":
    main()
