"""The state of a run in one process, and one optimiser step of it: gradient, clipping, schedules, update.

A step's gradient may come from several micro-batches; it equals that of the whole batch.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import operator
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dinoscope import checkpoint, distributed
from dinoscope.config import from_dict, to_dict
from dinoscope.data.augment_torch import DecodedBatch
from dinoscope.data.loader import Batches, StepSampler, ViewsDataset, block_permutation, default_workers, view_loader
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError
from dinoscope.methods import build_method, method_name
from dinoscope.methods.method import Method, Outputs
from dinoscope.model_names import load_model
from dinoscope.models.backbone import zero_residual_branches
from dinoscope.models.layers import choose_kernels, statistics_held, synchronize
from dinoscope.models.network import Backbone, require_depths
from dinoscope.schedules import cosine, warmup_cosine
from dinoscope.system import autocast, keep_freed_memory, pick_precision
from dinoscope.training import sharding
from dinoscope.training.config import RunConfig, total_steps
from dinoscope.training.run_folder import CONFIG, changed_settings, portable
from dinoscope.types import Step, StepOutput, Views

logger = logging.getLogger("dinoscope")

COMPILING: Mapping[str, Any] = {"dynamic": False, "options": {"fallback_random": True}}
"""Options of torch.compile: a run has few sizes, and stochastic depth drops the same paths as without compilation."""
MAX_VARIANTS = 128
"""Compiled forms of a block: by its rate of stochastic depth, the size of the views, with gradients and without."""

_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
WITHOUT_BROADCAST: Mapping[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}
"""DistributedDataParallel does not broadcast buffers before each forward; torch 2.13 renamed the option."""

WINDOW_IMAGES = 1024
"""Images whose features are held for RankMe."""

COLD = 0.01
"""Below it a softmax of logits near 1 is beyond the range of half precision, and its gradient near that of single."""


class Scalars(Mapping):  # not of [str, float], or a check of types would read them
    """Scalars of a step that are still on the device. The first one that is read waits for it and copies all."""

    def __init__(self, values: Mapping[str, float | Tensor]) -> None:
        self.values_by_name = dict(values)
        self.on_device = torch.stack([value for value in values.values() if isinstance(value, Tensor)])

    @functools.cached_property
    def _numbers(self) -> dict[str, float]:
        numbers = iter(self.on_device.tolist())
        return {
            name: next(numbers) if isinstance(value, Tensor) else value for name, value in self.values_by_name.items()
        }

    def __getitem__(self, name: str) -> float:
        return self._numbers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)


class Trainer:
    """Everything that a checkpoint restores, and how to make a step.

    whole: networks, optimiser and next_step belong together, which they do not in the middle of an update.
    deferred: a step waits for nothing that the device computes, so that its queue never runs empty; see `make_step`.
    """

    def __init__(self, config: RunConfig, images: ImageSource, device: torch.device) -> None:
        self.config, self.images, self.device = config, images, device
        # Of the images as the run began: a file that is damaged on the way must not change it.
        self.sizes = images.sizes()
        self.fingerprint = images.fingerprint(self.sizes)
        if not distributed.agree(torch.tensor(list(bytes.fromhex(self.fingerprint)), device=device)):
            raise UserError(
                f"the processes do not find the same images below {images.name} (this one finds {len(images)}): give "
                "every machine the same files, then start again"
            )
        self.precision = pick_precision(config.precision, device)
        if device.type == "cpu":
            keep_freed_memory()
        self.per_epoch = len(images) // config.batch_size
        self.total = total_steps(config, len(images))
        self.next_step, self._seen_images = 0, False
        self.whole, self.deferred = True, device.type != "cpu"
        torch.manual_seed(config.seed)
        self.method = self._fresh_method()
        for backbone in self.method.backbones:
            backbone.checkpoint_activations = config.checkpoint_activations
        for network in (*self.method.children(), *self.method.frozen):
            choose_kernels(network, device, self.precision)
        self.compiled, self._compiler_proven = list[nn.Module](), False
        if config.compile:
            torch._dynamo.config.recompile_limit = MAX_VARIANTS
            self.compiled = [part for backbone in self.method.backbones for part in backbone.compiled_parts]
            for part in self.compiled:
                part.compile(**COMPILING)  # in place: the names of the weights stay
        # Batches are copied to a GPU on a stream of their own, while it is still at the step before.
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.network: nn.Module = self.method
        self.sharded = config.sharding == "fsdp"
        if distributed.world_size() > 1:
            synchronize(self.method, device)
        if self.sharded:
            sharding.shard(self.method, device)
        elif distributed.world_size() > 1:
            # Buffers need no broadcast: centres and queues are made of all processes' rows, batch norm is synchronised.
            self.network = DistributedDataParallel(self.method, **WITHOUT_BROADCAST)
        norms = [module for module in self.method.modules() if isinstance(module, _BatchNorm)]
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self._before: list[Tensor] = []
        scales = layer_scales(self.method, config.optimizer.layer_decay)
        self.optimizer = build_optimizer(config, self.method.trained_parameters(), scales)
        self.window: deque[Tensor] = deque()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def _fresh_method(self) -> Method:
        config = self.config
        method = build_method(config.method, config.backbone_config, len(self.images.classes))
        if config.zero_init_residual:
            zero_residual_branches(method)
        method.adopt(lambda name: load_model(name).backbone)
        return method.to(self.device)

    def at(self, index: int) -> Step:
        return Step(index, self.total, self.per_epoch)

    def batches(self) -> Batches[Views | DecodedBatch]:
        """Return this process's part of the batches of all steps that are left."""
        config, rank, processes = self.config, distributed.rank(), distributed.world_size()
        steps, count = range(self.next_step, self.total), len(self.images)
        shuffle = None
        if config.shuffle_block:
            shuffle = functools.partial(block_permutation, self.images.disk_order(), config.shuffle_block)
        sampler = StepSampler(
            count, config.batch_size, config.seed, steps, rank=rank, processes=processes, shuffle=shuffle
        )
        workers = default_workers(processes) if config.workers < 0 else config.workers
        images = self.images.with_slices(config.slices or 1)
        given = images, config.views, config.seed, config.window, self.sizes
        dataset = ViewsDataset(
            *given,
            reduced=config.decode == "reduced",
            masking=self.method.masking,
            mixing=self.method.mixing,
            channels=config.backbone_config.channels,
        )
        return view_loader(dataset, sampler, workers, pin=self.device.type == "cuda")

    def make_step(self, batch: Views | DecodedBatch) -> dict[str, float] | Scalars:
        """Make one optimiser step: gradient, clipping, update, and what the method moves. Return its scalars.

        On a CPU, raises UserError if the loss or its gradient is not finite; nothing was updated then. If `deferred`,
        the scalars stay on the device until one is read, and the caller must `check` them before anything is saved.
        """
        step, views = self.at(self.next_step), self._to_device(batch)
        if not self._seen_images:
            self._refuse_blank_images(views)
        self._before = [buffer.clone() for buffer in self._statistics]
        scheduled = set_schedules(self.optimizer, self.config, step)
        output, features = self._step_gradient(views, step)
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for _, parameter in self.method.trained_parameters()]
        scalars = {"loss": output.loss, **scheduled, "gradient_norm": clip_each(parameters, self.config.optimizer.clip)}
        if not self.deferred:
            self.check(step, {name: float(value) for name, value in scalars.items()})
        self.whole, self._before = False, []
        self.method.before_update(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step(step, output)
        self.next_step += 1
        scalars |= {**output.logged, **self.method.health(output.statistics)}
        # Images of all processes in their order, so that it does not matter how many there are.
        self._remember(distributed.gather_views(features).flatten(0, 1))
        self.whole = True
        return Scalars(scalars) if self.deferred else {name: float(value) for name, value in scalars.items()}

    def check(self, step: Step, scalars: Mapping[str, float]) -> None:
        """Raise UserError if the loss or the gradient of a step was not finite; the networks are lost if it was made.

        In fp16 the scaler leaves a step out whose gradient is not finite, and continues with a smaller scale.
        """
        loss = scalars["loss"]
        if math.isfinite(loss) and (self.scaler.is_enabled() or math.isfinite(scalars["gradient_norm"])):
            return
        self.whole = self.whole and step.index == self.next_step
        raise self._not_finite("the gradient is not finite" if math.isfinite(loss) else f"the loss turned {loss}", step)

    def _step_gradient(self, views: Views, step: Step) -> tuple[StepOutput, Tensor]:
        """Compute the step's gradient from nothing; if compilation fails at its first use, turn it off."""
        seed = hash((self.config.seed, step.index, distributed.rank())) % 2**63
        while True:
            # Randomness inside the network is a function of the step: a resumed run needs no generator state.
            torch.manual_seed(seed)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                result = self.gradient(views, step)
            except Exception as error:  # of the tracer, the code generator, or a compiler that it calls
                if not self.compiled or self._compiler_proven or isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
                logger.warning("--compile is off, since torch.compile failed: %s", reason)
                for part in self.compiled:
                    part._compiled_call_impl = None  # as before `compile`; torch has no public way
                self.compiled = []
                for buffer, value in zip(self._statistics, self._before, strict=True):
                    buffer.copy_(value)
            else:
                self._compiler_proven = True
                return result

    def _to_device(self, batch: Views | DecodedBatch) -> Views:
        if self._copies is None:
            return batch.to(self.device)
        with torch.cuda.stream(self._copies):
            views = batch.to(self.device)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self._copies)
        for tensor in (views.global_views, views.local_views, views.labels, views.mixes):
            if tensor is not None:
                tensor.record_stream(now)
        return views

    def uncompiled(self) -> AbstractContextManager[object]:
        """Return a context in which nothing is compiled: evaluations have other sizes, of few images."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def gradient(self, views: Views, step: Step) -> tuple[StepOutput, Tensor]:
        """Add the gradient of the loss of this process's batch to the parameters, micro-batch by micro-batch.

        If the loss is a mean over images, gradients of the micro-batches' losses add up. If it needs the whole batch,
        there are two passes: outputs first, then their gradients, then each micro-batch again (GradCache, Gao et al.
        2021). Nothing of the method's state moves.
        Returns loss, logged values and statistics of the batch of all processes (means over the micro-batches and the
        processes, which have as many images each), and of this process rows and features [views, batch, dim].
        """
        method, network, parts = self.method, self.network, self.config.accumulate
        micro_batches = views.split(parts)
        # Both passes of a micro-batch begin with the same seed, so that stochastic depth drops the same paths.
        seeds = [(torch.initial_seed() + number) % 2**63 for number in range(parts)]
        results, features = list[StepOutput](), list[Tensor]()
        whole: dict[str, Tensor] = {}
        if parts > 1 and not method.additive:
            cached: list[Outputs] = []
            for micro, seed in zip(micro_batches, seeds, strict=True):
                torch.manual_seed(seed)
                # The second pass moves the statistics of batch norm.
                with torch.no_grad(), autocast(self.precision, self.device), statistics_held(network):
                    cached.append(network(micro))
            whole = {name: torch.cat([outputs[name] for outputs in cached], dim=1) for name in cached[0]}
            for rows in whole.values():
                rows.requires_grad_(rows.is_floating_point())  # not the labels
            results.append(method.loss(whole, step))
            self.scaler.scale(results[0].loss).backward()
            features.append(whole["features"].detach())
        for number, micro in enumerate(micro_batches):
            last = number == parts - 1  # with it, processes exchange gradients
            if self.sharded:
                cast(FSDPModule, network).set_requires_gradient_sync(last)
            with nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync():
                if whole:
                    torch.manual_seed(seeds[number])
                with autocast(self.precision, self.device):
                    outputs: Outputs = network(micro)
                if whole:
                    start = number * micro.batch_size
                    pairs = [
                        (output, gradient[:, start : start + micro.batch_size])
                        for name, output in outputs.items()
                        if output.requires_grad and (gradient := whole[name].grad) is not None
                    ]
                    torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])
                else:
                    results.append(method.loss(outputs, step))
                    self.scaler.scale(results[-1].loss / parts).backward()
                    features.append(outputs["features"].detach())
        return _mean(results), torch.cat(features, dim=1)

    def _remember(self, features: Float[Tensor, "n d"]) -> None:
        self.window.append(features.detach().float())
        while sum(map(len, self.window)) - len(self.window[0]) >= WINDOW_IMAGES:
            self.window.popleft()

    def recent_features(self) -> Float[Tensor, "n d"]:
        """Return the evaluated network's features of the last images that all processes saw, for RankMe."""
        return torch.cat([features.cpu() for features in self.window])

    def _refuse_blank_images(self, views: Views) -> None:
        crops = views.global_views
        varied = bool((crops.amax((-2, -1)) > crops.amin((-2, -1))).any())
        if not distributed.totals(varied, device=self.device)[0]:
            raise UserError(
                f"every image of the first batch is of one colour, so there is nothing to learn. Look at the images "
                f"below {self.images.name}: are they masks, or empty exports?"
            )
        self._seen_images = True

    def _not_finite(self, what: str, step: Step) -> UserError:
        config, settings = self.config, to_dict(self.config.method)
        cold = [
            f"raise --method.{name.replace('_', '-')} ({value:g})"
            for name, value in settings.items()
            if name.endswith("temperature") and value < COLD
        ]
        if min(config.std) < COLD:
            advice = f"raise --std ({' '.join(map(str, config.std))}), which images are divided by"
        elif cold:
            advice = " and ".join(cold)
        elif self.precision == "fp16":
            advice = "use --precision bf16 or fp32"
        elif step.index == 0:
            advice = "look at the images, --mean and --std (nothing was learned yet, so it is not the learning rate)"
        else:
            advice = "lower --optimizer.learning-rate, keep --optimizer.clip at 3 or below"
        late = self.next_step - step.index
        noticed = f"seen {late} step{'s' * (late > 1)} later" if late else "nothing was updated"
        return UserError(
            f"{what} at step {step.index} (epoch {step.epoch}); {noticed} and the last checkpoint is whole. "
            f"To fix it: {advice}; then start again or --resume"
        )

    def rewind(self) -> None:
        """Undo what a step that failed before its update has moved: only the running statistics of batch norm."""
        for buffer, value in zip(self._statistics, self._before, strict=False):
            buffer.copy_(value)
        self._before = []

    def is_finite(self) -> bool:
        state, _ = checkpoint.optimizer_tensors(self.optimizer)
        tensors = [*self.method.state_dict().values(), *state.values()]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def whole_method(self) -> Method:
        """Return the method with whole weights: a copy in the main process, if they are sharded. All must ask."""
        if not self.sharded:
            return self.method
        weights = sharding.whole(self.method.state_dict())
        if not distributed.is_main():
            return self.method
        copy = self._fresh_method()
        copy.load_state_dict(weights)
        return copy

    def save(self, path: Path, snapshot: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> None:
        """Write a checkpoint. snapshot: what it holds, if it was taken before."""
        checkpoint.save(path, *(snapshot or self.snapshot()))

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that a checkpoint holds: tensors and metadata. All processes must ask, if weights are sharded."""
        state, groups = checkpoint.optimizer_tensors(self.optimizer)
        weights = sharding.whole(self.method.state_dict())
        parts = {"method": weights, "optimizer": sharding.whole(state), "window": dict(enumerate(self.window))}
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        metadata = {
            "step": self.next_step,
            "total": self.total,
            "method": method_name(self.config.method),
            "run": to_dict(portable(self.config)),
            "backbone": to_dict(self.method.evaluated_backbone.config),
            "evaluated_prefix": f"method.{self.method.evaluated_prefix}",
            "optimizer_groups": groups,
            "scaler": self.scaler.state_dict(),
            "data_fingerprint": self.fingerprint,
        }
        if self.method.classifier_prefix is not None:
            prefix, classes = f"method.{self.method.classifier_prefix}", list(self.images.classes)
            metadata["classifier"] = {"prefix": prefix, "classes": classes}
        return tensors, metadata

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of this run.

        Raises UserError if the file does not fit or is of another run, the images are not those of the run's start, or
        the processes are not at the same step.
        """
        saved = checkpoint.load(path)
        if missing := {"run", "data_fingerprint", "optimizer_groups", "scaler", "step"} - saved.metadata.keys():
            raise UserError(f"{path} is no checkpoint of a run: it lacks {', '.join(sorted(missing))}")
        begun_with = from_dict(RunConfig, saved.metadata["run"], str(path))
        # Version 0.1 kept relative paths, which mean another place in another folder.
        if self.config.init != portable(self.config).init:
            begun_with = replace(begun_with, init=self.config.init)
        if changed := changed_settings(begun_with, self.config):
            raise UserError(
                f"{path} belongs to another run than {CONFIG} ({'; '.join(changed)}): move it away, or begin again "
                "with --overwrite"
            )
        if saved.metadata["data_fingerprint"] != self.fingerprint:
            raise UserError(
                f"the images below {self.images.name} are not those that the run began with (other files or sizes): "
                "put them back, or begin a new run"
            )
        parts: dict[str, dict[str, Tensor]] = {"method": {}, "optimizer": {}, "window": {}}  # no window in 0.1
        for name, tensor in saved.tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        checkpoint.load_strictly(self.method, sharding.like_module(parts["method"], self.method), path)
        try:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            state = {
                name: sharding.like(tensor, parameters[int(name.partition(".")[0])])
                for name, tensor in parts["optimizer"].items()
            }
            checkpoint.restore_optimizer(self.optimizer, state, saved.metadata["optimizer_groups"])
            self.scaler.load_state_dict(saved.metadata["scaler"])
            self.next_step = operator.index(saved.metadata["step"])
            if not 0 <= self.next_step < 2**63:
                raise ValueError(f"it is at step {self.next_step}")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(f"{path} is damaged: its progress cannot be restored ({error})") from error
        if self.next_step > self.total:
            raise UserError(
                f"{path} is of step {self.next_step}, but this run ends after {self.total} steps: move it away, then "
                "--resume"
            )
        if not distributed.agree(torch.tensor(self.next_step, device=self.device)):
            raise UserError(
                f"the processes do not find the same checkpoints in {path.parent}: give every machine the same files, "
                "then --resume"
            )
        for number in range(len(parts["window"])):
            self._remember(parts["window"][str(number)])


def _mean(results: list[StepOutput]) -> StepOutput:
    loss = torch.stack([result.loss.detach() for result in results]).mean()
    logged = _mean_values([result.logged for result in results])
    # One exchange for all scalars, on the device of the loss: some are made on the CPU.
    scalars = distributed.mean_reduce(
        torch.stack([loss, *(value.to(loss, non_blocking=True) for value in logged.values())])
    )
    statistics = _mean_values([result.statistics for result in results])
    return StepOutput(
        scalars[0],
        dict(zip(logged, scalars[1:], strict=True)),
        {name: distributed.mean_reduce(value) for name, value in statistics.items()},
        {name: torch.cat([result.rows[name].detach() for result in results], dim=1) for name in results[0].rows},
    )


def _mean_values(values: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    stacked = {name: torch.stack([value[name].detach() for value in values]) for name in values[0]}
    # From the first on, so that the mean of equal values is that value: temperatures and momenta are logged too.
    return {name: rows[0] + (rows - rows[0]).mean(dim=0) for name, rows in stacked.items()}


def layer_scales(method: Method, decay: float) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter of the method's networks, by name; none for 1.

    It is decay^(L + 1 - depth) (`OptimizerConfig.layer_decay`). Heads are in no network, and have no factor.
    Source: MAE, util/lr_decay.py. Raises UserError for a network whose layers are not known.
    """
    scales = dict[str, float]()
    if decay == 1:
        return scales
    for prefix, module in method.named_modules():
        if isinstance(module, Backbone) and module in method.backbones:
            depths = require_depths(module, "--optimizer.layer-decay")
            scales |= {f"{prefix}.net.{name}": decay ** (depths.top - depth) for name, depth in depths.by_name.items()}
    return scales


def build_optimizer(
    config: RunConfig,
    parameters: Iterable[tuple[str, nn.Parameter]],
    scales: Mapping[str, float] = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """Return the optimiser with two groups: weights, and biases with all other 1-D parameters.

    `OptimizerConfig.decayed` decides which of them have weight decay.
    scales: name of a parameter -> factor of its learning rate; then there are two groups for each factor.
    """
    name, decayed = config.optimizer.name, config.optimizer.decayed
    weights, others = dict[float, list[nn.Parameter]](), dict[float, list[nn.Parameter]]()
    for path, parameter in parameters:
        is_weight = parameter.ndim != 1 and not path.endswith(".bias")
        is_token = decayed == "not_tokens" and path.endswith(("cls_token", "pos_embed", "reg_token", "mask_token"))
        kind, other = (weights, others) if is_weight and not is_token else (others, weights)
        scale = scales.get(path, 1.0)
        other.setdefault(scale, [])  # so that both groups of a factor are there, in one order
        kind.setdefault(scale, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for scale in sorted(weights):
        own = {} if not scales else {"scale": scale}
        groups.append({"params": weights[scale], "decays": True, **own})
        groups.append({"params": others[scale], "decays": decayed == "all", "weight_decay": 0.0, **own})
    if name == "adamw":
        device = next(group["params"][0] for group in groups if group["params"]).device
        fused, betas = device.type in ("cuda", "cpu"), (0.9, config.optimizer.beta2)
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=0.0, fused=fused)
    if name == "sgd":
        # Fused on a GPU, where in fp16 the other form waits in each step to see whether it is left out (so does LARS).
        fused = next(group["params"][0] for group in groups if group["params"]).device.type == "cuda"
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=0.0, fused=fused)
    from timm.optim.lars import Lars

    # timm's LARS is plain SGD for a group without weight decay, unless it is told to adapt.
    for group in groups:
        group["always_adapt"] = group["decays"]
    return Lars(
        groups,
        lr=0.0,
        momentum=0.9,  # pyright: ignore[reportArgumentType] (timm infers int)
        nesterov=name == "larc",
        trust_coeff=config.optimizer.trust,
        trust_clip=name == "larc",
    )


def set_schedules(optimizer: torch.optim.Optimizer, config: RunConfig, step: Step) -> dict[str, float]:
    """Set learning rate and weight decay for this step; return them for the log: the rate of a factor of 1."""
    settings = config.optimizer
    warmup = round(settings.warmup_epochs * step.per_epoch)
    peak = settings.peak(config.batch_size)
    rate = warmup_cosine(step.index, step.total, warmup, peak, settings.min_learning_rate, settings.start_learning_rate)
    decay = cosine(settings.weight_decay, settings.final_weight_decay, step.progress)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
        if group["decays"]:
            group["weight_decay"] = decay
    return {"learning_rate": rate, "weight_decay": decay}


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Shorten every gradient tensor longer than `limit` to that length, each on its own.

    Returns the norm of all gradients together before clipping. limit 0 only measures.
    """
    sharded = [parameter.grad for parameter in parameters if parameter.grad is not None]
    gradients = [sharding.local(gradient) for gradient in sharded]
    norms = torch._foreach_norm(gradients)
    if any(part is not gradient for part, gradient in zip(gradients, sharded, strict=True)):
        norms = list(distributed.sum_reduce(torch.stack(norms).square()).sqrt())
    if limit > 0:
        # 1e-6 keeps a zero gradient from dividing by zero (the reference's rule)
        factors = [(limit / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
        torch._foreach_mul_(gradients, factors)
    return torch.stack(norms).norm()
