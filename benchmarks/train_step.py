"""One training step of DINO, ViT-S/16 with full multi-crop: ours beside the reference, in turn, in one run.

    python benchmarks/train_step.py [--reference PATH_TO_DINO_CHECKOUT] [--batch 4] [--repeats 5] [--network NAME]
    python benchmarks/train_step.py --recipe NAME [--batch N] [--plain] [--compile]

Each side runs in a process of its own, so that peak memory is its own; the sides take turns. A step is what one
optimiser step of training does: student on all crops, teacher on the global ones, loss, centre, backward,
clipping, AdamW, EMA. The reference has its ViT-S/16 whatever NAME is.
Further sides: ours with one image a micro-batch (`--accumulate`), which computes the same step in less memory; the bare
matrix products of our step, each by `torch.mm` on operands of the same shapes; with `--plain`, ours without the choice
of kernels and with the C library's own handling of freed memory; with `--compile`, ours compiled.
With `--recipe`, ours is the step of that recipe (on its own views, in its method) instead.
Views are made beforehand. Medians over the repeats; peak resident memory of the process
less that before the networks.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing as mp
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))  # of a process that is started for a side
import taking_turns

RECIPE = "dino_deit_small_300ep"
OUTPUTS = 65536


def main() -> None:
    """Measure both sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--network", help="ours; by default ViT-S/16, or the recipe's")
    parser.add_argument("--recipe", help="a step of this recipe")
    parser.add_argument("--plain", action="store_true", help="ours without the choice of kernels, too")
    parser.add_argument("--compile", action="store_true", help="ours with --compile, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.recipe and options.reference:
        parser.error("--recipe has no reference to compare with")
    settings = (options.batch, options.precision, options.network, options.recipe)
    sides = {"ours": functools.partial(ours, *settings)}
    if options.batch > 1 and not options.recipe:
        sides["accumulated"] = functools.partial(ours, *settings, accumulate=options.batch)
    if options.plain:
        sides["plain"] = functools.partial(ours, *settings, plain=True)
    if options.compile:
        sides["compiled"] = functools.partial(ours, *settings, compiled=True)
    sides["products"] = functools.partial(products, *settings)
    if options.reference:
        sides["reference"] = functools.partial(reference, options.batch, options.precision, options.reference)
    rows = alternate(sides, options.repeats)
    all_flops, product_flops = flops(ours(*settings)), sum(2 * m * k * n for m, k, n in shapes(ours(*settings)))
    what = options.recipe or f"{options.network or 'ViT-S/16'}, 2 x 224 + 8 x 96, K = {OUTPUTS:,}"
    print(f"{what}, batch {options.batch}, {options.precision}")
    for name, row in rows.items():
        speed = options.batch / row["seconds"]
        print(
            f"  {name:<12} {row['seconds']:.3f} s a step (fastest {row['fastest']:.3f})  {speed:.2f} images/s  "
            f"{row['gigabytes']:.2f} GB"
        )
    rate = all_flops / rows["ours"]["seconds"] / 1e9
    bare = product_flops / rows["products"]["seconds"] / 1e9
    print(
        f"  arithmetic   {all_flops / 1e9:.0f} GFLOP a step at {rate:.0f} GFLOP/s, {rate / bare:.0%} of the {bare:.0f} "
        f"of torch.mm on the shapes of its {product_flops / 1e9:.0f} GFLOP of products"
    )
    base = "reference" if "reference" in rows else "plain"
    for name in [name for name in rows if name not in (base, "products")] if base in rows else ():
        print(
            f"  {name:<12} {rows[base]['seconds'] / rows[name]['seconds']:.2f} times the speed of {base}, "
            f"{rows[name]['gigabytes'] / rows[base]['gigabytes']:.2f} of its memory"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def alternate(sides, repeats: int) -> dict[str, dict[str, float]]:
    """Start one process per side, let them step in turn, and collect medians and peaks."""
    context = mp.get_context("spawn")
    workers = {}
    for name, make_step in sides.items():
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(make_step, there), daemon=True)
        process.start()
        there.close()  # of this process: if the other one dies, recv() fails instead of waiting for ever
        workers[name] = here
        here.recv()  # built and warmed up
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, pipe in workers.items():
            pipe.send("step")
            times[name].append(pipe.recv())
    rows = {}
    for name, pipe in workers.items():
        pipe.send("end")
        rows[name] = {"seconds": statistics.median(times[name]), "fastest": min(times[name]), "gigabytes": pipe.recv()}
    return rows


start = 0.0  # peak memory of this process when everything is imported and nothing is built


def imported() -> None:
    """Note that a side has imported what it needs."""
    global start
    start = taking_turns.status_bytes("VmHWM") / 1e9


def serve(make_step, pipe) -> None:
    """Build one side, warm it up twice, then time a step whenever asked."""
    step = make_step()
    step()
    step()
    pipe.send("ready")
    while pipe.recv() == "step":
        begin = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - begin)
    pipe.send(taking_turns.status_bytes("VmHWM") / 1e9 - start)


def crops(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 views: [2, batch, 3, 224, 224] and [8, batch, 3, 96, 96]."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randint(0, 256, (2, batch, 3, 224, 224), dtype=torch.uint8, generator=generator)
    small = torch.randint(0, 256, (8, batch, 3, 96, 96), dtype=torch.uint8, generator=generator)
    return large, small


def ours(
    batch: int,
    precision: str,
    network: str | None = None,
    recipe: str | None = None,
    *,
    accumulate: int = 1,
    plain: bool = False,
    compiled: bool = False,
):
    """Our trainer's step."""
    from dinoscope.data.sources import ImageFolder
    from dinoscope.evaluation.throughput import made_up_views
    from dinoscope.recipes import run_config
    from dinoscope.training import trainer

    imported()
    if plain:
        trainer.choose_kernels = lambda *ignored: None
        trainer.keep_freed_memory = lambda: None
    config = run_config(recipe or RECIPE, Path(), Path())  # the last layer of this recipe is the reference's below
    if recipe is None:
        config = replace(config, method=replace(config.method, out_dim=OUTPUTS))
    config = replace(config, backbone=network or config.backbone, batch_size=batch, accumulate=accumulate)
    config = replace(config, precision=precision, device="cpu", compile=compiled)
    names = tuple(f"{index % 10}/{index}.jpg" for index in range(100 * batch))
    labels = tuple(index % 10 for index in range(100 * batch))
    folder = ImageFolder(Path(), names, labels, tuple(map(str, range(10))))
    built = trainer.Trainer(config, folder, torch.device("cpu"))
    views = made_up_views(config, built.method.masking)
    return lambda: built.make_step(views)


def products(batch: int, precision: str, network: str | None, recipe: str | None):
    """The matrix products of our step, each made once for every time that the step makes one of its shape."""
    counts = Counter(shapes(ours(batch, precision, network, recipe)))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    operands = {
        (m, k, n): [torch.randn(rows, columns, dtype=dtype) for rows, columns in ((m, k), (k, n), (m, n))]
        for m, k, n in counts
    }

    def step() -> None:
        for shape, count in counts.items():
            for _ in range(count):
                left, right, result = operands[shape]
                torch.mm(left, right, out=result)

    return step


def shapes(step) -> list[tuple[int, int, int]]:
    """(m, k, n) of every product [m, k] x [k, n] that a step makes in its linear layers, forward and backward."""
    found: list[tuple[int, int, int]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                left, right = args[-2:]
                found.append((*left.shape, right.shape[1]))
            return func(*args, **(kwargs or {}))

    with Watch():
        step()
    return found


def flops(step) -> int:
    """Floating-point operations of a step: products, convolutions and attention, forward and backward."""
    from dinoscope.training.plan import FLOPS

    with FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
        step()
    return counter.get_total_flops()


def reference(batch: int, precision: str, checkout: Path):
    """The reference's networks, loss and helpers in the order of its training loop."""
    sys.path.insert(0, str(checkout))
    import main_dino
    import torch.distributed as dist
    import utils
    import vision_transformer as vits

    imported()
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29611", rank=0, world_size=1)
    # its loss moves its centre to the GPU; on a CPU that must be the identity
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    student = utils.MultiCropWrapper(
        vits.vit_small(patch_size=16, drop_path_rate=0.1), vits.DINOHead(384, OUTPUTS, norm_last_layer=False)
    )
    teacher = utils.MultiCropWrapper(vits.vit_small(patch_size=16), vits.DINOHead(384, OUTPUTS))
    teacher.load_state_dict(student.state_dict())
    for parameter in teacher.parameters():
        parameter.requires_grad = False
    loss_of = main_dino.DINOLoss(OUTPUTS, 10, 0.04, 0.04, 0, 100)
    optimizer = torch.optim.AdamW(utils.get_params_groups(student), lr=1e-5)
    large, small = crops(batch)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    images = [(view.float() / 255 - mean) / std for view in [*large, *small]]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            teacher_output = teacher(images[:2])
            student_output = student(images)
            loss = loss_of(student_output.float(), teacher_output.float(), 1)
        optimizer.zero_grad()
        loss.backward()
        utils.clip_gradients(student, 3.0)
        utils.cancel_gradients_last_layer(1, student, 1)
        optimizer.step()
        with torch.no_grad():
            for ours_, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
                theirs.data.mul_(0.996).add_((1 - 0.996) * ours_.detach().data)
        float(loss)

    return step


if __name__ == "__main__":
    main()
