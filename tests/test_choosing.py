"""`--recipe auto`: whatever the images and the machine are, a run that fits; and what the person gave stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinoscope import api, choosing
from dinoscope.choosing import GB, ROWS, SHARE_OF_MEMORY, Facts, Row, choose, chosen
from dinoscope.config import changed, leaves
from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError
from dinoscope.methods import METHODS, method_name
from dinoscope.models.backbone import network
from dinoscope.training import plan as planning
from dinoscope.training.config import RunConfig, check
from dinoscope.training.run_folder import read_config
from tests.plain_process import PlainProcess

BASE = RunConfig(Path("data"), Path("out"))

CIFAR = Facts(50_000, 32, 32, 32, False, "cpu", 24 * 10**9, False, 2)
PHOTOGRAPHS = Facts(1_281_167, 375, 20, 4000, False, "cuda", 140 * 10**9, True, 16)

FACTS = st.builds(
    Facts,
    images=st.integers(1, 2_000_000) | st.integers(1, 100),
    side=st.integers(1, 6000) | st.integers(16, 100),
    smallest=st.just(1),
    largest=st.integers(1, 60_000),
    grey=st.booleans(),
    device=st.sampled_from(["cpu", "cuda", "mps"]),
    memory=st.none() | st.integers(4 * 10**9, 200 * 10**9),
    half=st.booleans(),
    cores=st.integers(1, 128),
)

fewer = settings(max_examples=60)
"""A choice takes a tenth of a second with the tests' checks of types."""

GIVEN: dict[str, Any] = {
    "epochs": 3.0,
    "batch_size": 32,
    "optimizer.learning_rate": 1e-4,
    "backbone": "vit_micro_conv8",
    "views.global_size": 48,
    "views.hue": 0.3,
    "precision": "fp32",
    "accumulate": 2,
    "evaluate_every": 7,
    "optimizer.warmup_epochs": 0.5,
    "drop_path": 0.05,
}


@fewer
@given(FACTS)
def test_every_choice_is_a_run_that_fits_into_memory(facts: Facts) -> None:
    choice = choose(facts, BASE)
    config, row = choice.config, choice.row
    check(config, facts.images, 1)
    assert choice == choose(facts, BASE)
    assert facts.device in row.devices
    assert not METHODS[method_name(config.method)].transformers_only or network(config.backbone).transformer
    if facts.memory is not None:
        micro = config.batch_size / config.accumulate
        assert row.memory + row.memory_per_image * micro <= SHARE_OF_MEMORY * facts.memory
    assert [line.partition(":")[0] for line in choice.reasons] == ["images", "method", "network"]
    assert not any("\n" in line for line in choice.reasons)


@fewer
@given(
    FACTS.filter(lambda facts: facts.images >= 5000),
    st.lists(st.sampled_from(sorted(GIVEN)), unique=True),
    st.none() | st.sampled_from(sorted(set(METHODS) - {"distill"})),
)
def test_what_was_given_is_never_changed(facts: Facts, names: list[str], method: str | None) -> None:
    base = changed(BASE, {name: GIVEN[name] for name in names})
    given = {*names} | ({"method"} if method else set())
    if method:
        base = replace(base, method=METHODS[method].config())
    try:
        config = choose(facts, base, given).config
    except UserError:  # what was given contradicts itself, as an image network for masked patches does
        assert len(given) > 1
        return
    check(config, facts.images, 1, classes=2 if method == "supervised" else 0)
    own = leaves(config)
    assert {name: own[name] for name in names} == {name: leaves(base)[name] for name in names}
    if method:
        assert method_name(config.method) == method


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"distill"}))
@pytest.mark.parametrize(
    "facts", [CIFAR, PHOTOGRAPHS, replace(CIFAR, device="cuda"), replace(PHOTOGRAPHS, device="cpu")]
)
def test_a_method_by_name_gets_a_network_that_it_works_with(method: str, facts: Facts) -> None:
    config = choose(facts, replace(BASE, method=METHODS[method].config()), {"method"}).config
    assert type(config.method) is METHODS[method].config
    assert not METHODS[method].transformers_only or network(config.backbone).transformer


def test_a_preset_of_views_by_name_stays(tmp_path: Path) -> None:
    base = replace(BASE, views=VIEWS["small_32"])
    names = {f"views.{name}" for name in leaves(base.views)}
    assert choose(CIFAR, base, names).config.views == VIEWS["small_32"]


def test_the_device_and_the_size_of_the_images_decide() -> None:
    def named(facts: Facts) -> str:
        return choose(facts, BASE).row.name

    assert named(CIFAR) == "small images on a CPU"
    assert named(replace(CIFAR, side=64)) == "images of about 64 px on a CPU"
    assert named(replace(CIFAR, side=65)) == "photographs on a CPU"
    assert named(replace(CIFAR, device="cuda")) == "small images on a GPU"
    assert named(PHOTOGRAPHS) == "photographs on a GPU"
    assert named(replace(PHOTOGRAPHS, memory=4 * 10**9)) == "a small GPU"
    assert named(replace(PHOTOGRAPHS, device="mps", memory=None)) == "a small GPU"
    assert named(replace(CIFAR, images=1)) == "a CPU and a transformer"


def test_two_cores_compute_with_one_thread_and_more_cores_with_as_many_as_torch_takes() -> None:
    photographs = replace(CIFAR, images=372, side=400)
    assert choose(photographs, BASE).config.threads == 1
    assert choose(replace(photographs, cores=8), BASE).config.threads == 0
    assert choose(replace(photographs, device="cuda"), BASE).config.threads == 0
    assert choose(photographs, replace(BASE, threads=2), {"threads"}).config.threads == 2


def test_a_small_gpu_cuts_the_batch_and_a_large_one_does_not() -> None:
    large, small = choose(PHOTOGRAPHS, BASE).config, choose(replace(PHOTOGRAPHS, memory=8 * 10**9), BASE).config
    assert (large.accumulate, large.batch_size) == (1, small.batch_size)
    assert small.accumulate > 1
    assert choose(replace(PHOTOGRAPHS, memory=4 * 10**9), BASE).config.backbone == "vit_tiny_patch16_224"


def test_processes_share_the_batch_and_each_has_its_memory() -> None:
    alone = choose(replace(PHOTOGRAPHS, memory=12 * 10**9), BASE).config
    three = choose(replace(PHOTOGRAPHS, memory=12 * 10**9, processes=3), BASE).config
    check(three, PHOTOGRAPHS.images, 3)
    assert (three.batch_size % 3, three.batch_size > 250) == (0, True)
    assert three.accumulate < alone.accumulate


def test_patches_fill_the_views_of_a_network_that_was_given() -> None:
    base = replace(BASE, backbone="vit_small_patch14_dinov2")
    config = choose(replace(PHOTOGRAPHS, memory=6 * 10**9), base, {"backbone"}).config
    assert (config.views.global_size, config.views.local_size) == (126, 70)


def test_grey_images_need_no_colours_and_few_are_told() -> None:
    choice = choose(replace(CIFAR, grey=True, images=40, smallest=20, largest=500), BASE)
    assert (choice.config.views.hue, choice.config.views.saturation, choice.config.views.grayscale) == (0, 0, 0)
    assert "grey, so views change no colours" in choice.reasons[0]
    assert "few to learn from" in choice.reasons[0]
    assert "sides from 20 to 500 px" in choice.reasons[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_memory_of_the_table_is_that_of_a_plan(row: Row, picture_folder: Callable[..., Path]) -> None:
    """In fp32, of two micro-batches of several sizes: without their overhead, which is of the CPU."""
    few, many = (tensors(row, picture_folder(64, size=(48, 64)), micro) for micro in SIZES)
    per_image = (many - few) / (SIZES[1] - SIZES[0])
    assert row.memory_per_image == pytest.approx(per_image, rel=0.1)
    assert row.memory == pytest.approx(few - SIZES[0] * per_image, rel=0.1, abs=0.05 * GB)


SIZES = (4, 8)


def tensors(row: Row, data: Path, micro: int) -> int:
    """Bytes of all tensors at the peak of a step with two micro-batches, as a run of a large set has it."""
    facts = Facts(1_000_000, int(min(row.max_side, 300)), 32, 32, False, row.devices[0], None, False, 2)
    config = replace(choosing._config(row, facts, BASE, ()), data=data, device="cpu", precision="fp32", workers=0)
    planned = planning.plan(replace(config, batch_size=2 * micro, accumulate=2, epochs=50.0))
    return sum(size for part, size in planned.memory.items() if part != "overhead")


# Real folders


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_folder_of_few_images_is_trained_on(count: int, picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    run = api.train(
        picture_folder(count),
        out=tmp_path / "run",
        recipe="auto",
        epochs=1,
        device="cpu",
        workers=0,
        **{"views.num_global": 2, "precision": "fp32"},
    )
    assert run.steps >= 1
    assert (run.config.epochs, run.config.views.num_global) == (1, 2)
    assert all(bool(torch.isfinite(weight).all()) for weight in api.load(run).backbone.state_dict().values())


def test_the_command_without_a_recipe_chooses_and_prints_why(
    picture_folder: Callable[..., Path], tmp_path: Path, plain_process: PlainProcess
) -> None:
    picture_folder(40)
    train = ["train", "--data", "pictures", "--out", "run", "--device", "cpu", "--workers", "0", "--epochs", "1"]
    commands = {
        "run": [*train, "--views.num-global", "2"],
        "again": train,
        "resumed": ["train", "--out", "run", "--resume"],
    }
    answers = plain_process.run(commands, tmp_path)
    code, _, printed = answers["run"]
    assert code == 0, printed
    told = [
        line for line in printed.splitlines() if line.startswith(("images: 40 of 32 px", "method: emp", "network: "))
    ]
    assert len(told) == 3
    assert told[2].endswith("given by you: epochs, views, workers")
    config = read_config(tmp_path / "run")
    assert (config.backbone, config.epochs, config.views.num_global) == ("airbench_micro", 1, 2)
    code, _, printed = answers["again"]
    assert (code, printed) == (
        2,
        "dinoscope train: run exists already: --resume continues it, --overwrite starts again\n",
    )
    assert answers["resumed"][0] == 0


def test_the_facts_are_those_of_the_folder(tmp_path: Path) -> None:
    for number, size in enumerate([(40, 30), (50, 300), (2000, 600)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full(size, 90 + number, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    base = RunConfig(tmp_path, tmp_path / "run", device="cpu", max_unreadable=0.5)
    choice = chosen(base, {"device", "max_unreadable"}, lambda done, total: None)
    assert choice.reasons[0].startswith("images: 3 of 50 px (median of the shorter side), grey")
    assert "sides from 30 to 2000 px" in choice.reasons[0]


def test_a_folder_without_images_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images in this folder"):
        chosen(RunConfig(tmp_path, tmp_path / "run"), (), lambda done, total: None)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 of 1 images cannot be read"):
        chosen(RunConfig(tmp_path, tmp_path / "run"), (), lambda done, total: None)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": -4}, {"accumulate": 0}, {"epochs": 0.0}])
def test_a_number_that_is_never_right_is_refused_before_the_images_are_read(wrong: dict[str, Any]) -> None:
    (name, value), touched = wrong.popitem(), list[int]()
    setting = f"--{name.replace('_', '-')} must be above 0, not {value:g}"
    with pytest.raises(UserError, match=setting):
        chosen(changed(BASE, {name: value}), {name}, lambda done, total: touched.append(done))
    assert touched == []


def test_only_what_the_person_gave_is_listed_as_given() -> None:
    assert "given by you" not in choose(CIFAR, BASE, {"data", "out"}).reasons[2]
    assert choose(CIFAR, BASE, {"data", "out", "seed"}).reasons[2].endswith("; given by you: seed")
