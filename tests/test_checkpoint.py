"""Checkpoints: whole or not at all, strict, and never unpickled."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from dinoscope import checkpoint
from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.files import replacing, write_text
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2, 3])}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint with metadata n = 1."""
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, TENSORS, {"n": 1})
    return path


@pytest.fixture(scope="module")
def micro() -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig("vit_micro_conv8", image_size=32, drop_path=0.1))


def in_child(body: Callable[[], None]) -> int:
    """Exit code of a forked process that runs `body`."""
    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


class TestSaving:
    def test_equal_checkpoints_are_equal_files(self, tmp_path: Path) -> None:
        for number in range(8):
            checkpoint.save(tmp_path / f"{number}.safetensors", TENSORS, {"n": 1})
        assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1

    def test_everything_comes_back(self, tmp_path: Path) -> None:
        tensors = {
            "half": torch.randn(3, 4).bfloat16(),
            "scalar": torch.tensor(3),
            "transposed": torch.randn(3, 4).T,
            "learned": nn.Parameter(torch.randn(2)),
            "empty": torch.empty(0, 5),
        }
        metadata = {"step": 7, "nested": {"list": [1, None, "ü"]}, "nothing": None}
        checkpoint.save(tmp_path / "x.safetensors", tensors, metadata)
        read = checkpoint.load(tmp_path / "x.safetensors")
        assert read.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read.tensors[name].dtype == tensor.dtype
            assert torch.equal(read.tensors[name], tensor)
        assert read.metadata.items() >= metadata.items()

    def test_a_prefix_selects_and_is_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        checkpoint.save(path, {"student.w": torch.ones(1), "teacher.w": torch.zeros(1)}, {})
        assert checkpoint.load(path, "teacher.").tensors == {"w": torch.zeros(1)}

    def test_metadata_without_tensors(self, file: Path) -> None:
        assert checkpoint.read_metadata(file)["n"] == 1

    def test_whoever_may_read_other_files_may_read_it(self, file: Path) -> None:
        plain = file.with_name("plain")
        plain.touch()
        assert file.stat().st_mode == plain.stat().st_mode

    def test_bytes_reach_the_disk_before_the_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        events: list[str] = []
        sync, rename = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), sync(descriptor))[1])
        monkeypatch.setattr(Path, "replace", lambda path, target: (events.append("rename"), rename(path, target))[1])
        checkpoint.save(tmp_path / "x.safetensors", TENSORS, {})
        assert events == ["fsync", "rename", "fsync"]  # the file, its name, the folder that holds the name

    @pytest.mark.parametrize(
        ("failure", "seen"),
        [
            (SafetensorError("No space left on device"), OSError),
            (OSError(28, "No space left on device"), OSError),
            (KeyboardInterrupt(), KeyboardInterrupt),
        ],
    )
    def test_a_failure_leaves_the_previous_file_whole(
        self,
        file: Path,
        monkeypatch: pytest.MonkeyPatch,
        failure: BaseException,
        seen: type[BaseException],
    ) -> None:
        def half(tensors: object, path: Path, metadata: object) -> None:
            path.write_bytes(b"half")
            raise failure

        monkeypatch.setattr(checkpoint, "save_file", half)
        with pytest.raises(seen):
            checkpoint.save(file, TENSORS, {"n": 2})
        assert checkpoint.load(file).metadata["n"] == 1
        assert list(file.parent.iterdir()) == [file]

    def test_a_full_disk_leaves_the_previous_file_whole(self, file: Path) -> None:
        resource = pytest.importorskip("resource")

        def fill() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            try:
                checkpoint.save(file, {"large": torch.ones(1_000_000)}, {"n": 2})
            except OSError as error:
                os._exit(28 if str(file) in str(error) else 1)

        assert in_child(fill) == 28
        assert checkpoint.load(file).metadata["n"] == 1
        assert list(file.parent.iterdir()) == [file]

    def test_a_killed_writer_leaves_the_previous_file_and_prune_clears_up(self, tmp_path: Path) -> None:
        path = checkpoint.step_path(tmp_path, 5)
        checkpoint.save(path, TENSORS, {"n": 1})

        def die() -> None:
            with replacing(path) as partial:
                partial.with_name(".tmpX").write_bytes(b"half")  # safetensors 0.8 begins with such a file
                os.kill(os.getpid(), signal.SIGKILL)

        assert in_child(die) == -signal.SIGKILL
        assert checkpoint.load(path).metadata["n"] == 1
        assert len(list(tmp_path.iterdir())) == 2
        assert checkpoint.latest(tmp_path) == path
        checkpoint.prune(tmp_path, keep=1)
        assert list(tmp_path.iterdir()) == [path]

    def test_text_is_written_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "config.json"
        write_text(path, "first ü")
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            write_text(path, "second")
        assert path.read_text(encoding="utf-8") == "first ü"
        assert list(tmp_path.iterdir()) == [path]


class TestReading:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="there is no file"):
            checkpoint.load(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("kept", [0, 1, 7, 8, 20, -1])
    def test_a_truncated_file(self, file: Path, kept: int) -> None:
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(UserError, match="not a readable safetensors file"):
            checkpoint.load(file)

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    @given(position=st.integers(0, 300), value=st.integers(0, 255))
    def test_a_damaged_byte_is_no_crash(self, file: Path, position: int, value: int) -> None:
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[position % len(damaged)] = value
        other = file.with_name("damaged")
        other.write_bytes(damaged)
        with contextlib.suppress(UserError):
            checkpoint.load(other)

    @given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    def test_a_flipped_bit_is_noticed_or_changes_nothing(self, file: Path, position: int, bit: int) -> None:
        flipped = bytearray(file.read_bytes())
        flipped[position % len(flipped)] ^= 1 << bit
        other = file.with_name("flipped")
        other.write_bytes(flipped)
        try:
            read = checkpoint.load(other)
        except UserError:
            return
        assert read.metadata["n"] == 1
        assert read.tensors.keys() == TENSORS.keys()
        assert all(torch.equal(read.tensors[name], TENSORS[name]) for name in TENSORS)

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"a": TENSORS["a"].flip(0)}, "a differs"),
            ({"a": TENSORS["a"] * math.nan}, "a differs"),
            ({"a": TENSORS["a"].reshape(3, 2)}, "a differs"),
            ({"a": TENSORS["a"].view(torch.int32), "b": TENSORS["b"] + 1}, "a and 1 more differs"),
            ({"c": torch.zeros(1)}, "do not fit the names"),
        ],
    )
    def test_other_tensors_under_the_same_header_are_noticed(self, file: Path, changed, words: str) -> None:
        with safe_open(file, framework="pt") as written:
            header = written.metadata()
        save_file({**TENSORS, **changed}, file, metadata=header)
        with pytest.raises(UserError, match=words):
            checkpoint.load(file)
        if "names" not in words:
            assert checkpoint.read_metadata(file)["n"] == 1  # which is whole

    def test_changed_metadata_are_noticed_without_reading_the_tensors(self, file: Path) -> None:
        file.write_bytes(file.read_bytes().replace(b'n\\": 1', b'n\\": 2'))
        with pytest.raises(UserError, match="the metadata differs"):
            checkpoint.read_metadata(file)

    def test_a_file_of_an_earlier_version_has_no_checksums_and_is_read(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "x.safetensors", metadata={checkpoint.METADATA_KEY: '{"n": 1}'})
        read = checkpoint.load(tmp_path / "x.safetensors")
        assert not read.verified
        assert torch.equal(read.tensors["a"], TENSORS["a"])

    def test_a_foreign_file(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match="not written by dinoscope"):
            checkpoint.load(tmp_path / "x.safetensors")

    @pytest.mark.parametrize(
        "text", ["null", "[]", "3", '{"backbone": 1, "evaluated_prefix": null}', '{"backbone": []}']
    )
    def test_odd_metadata_are_refused_in_one_line(self, text: str, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "x.safetensors", metadata={checkpoint.METADATA_KEY: text})
        with pytest.raises(UserError, match=r"x\.safetensors"):
            checkpoint.load_backbone(tmp_path / "x.safetensors")

    def test_an_entry_that_is_not_json(self, tmp_path: Path) -> None:
        save_file(TENSORS, tmp_path / "x.safetensors", metadata={checkpoint.METADATA_KEY: "{"})
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load(tmp_path / "x.safetensors")

    def test_a_pickle_is_refused_and_not_executed(self, tmp_path: Path) -> None:
        marker = tmp_path / "executed"

        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(marker),)

        plain, torch_file = tmp_path / "model.pkl", tmp_path / "model.pth"
        plain.write_bytes(pickle.dumps(Trap()))
        torch.save({"model": Trap()}, torch_file)
        for path in (plain, torch_file):
            with pytest.raises(UserError, match="not a readable safetensors file"):
                checkpoint.load_backbone(path)
        assert not marker.exists()


class TestStrictness:
    def test_faults_are_named_and_nothing_is_loaded(self) -> None:
        module = nn.Linear(3, 2)
        before = module.weight.detach().clone()
        tensors = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
        with pytest.raises(UserError) as caught:
            checkpoint.load_strictly(module, tensors, Path("some.safetensors"))
        message = str(caught.value)
        assert "some.safetensors does not fit Linear" in message
        assert "missing: bias" in message
        assert "left over: scale" in message
        assert "weight is (2, 4) in the file and (2, 3) here" in message
        assert torch.equal(module.weight, before)

    def test_long_lists_are_cut(self) -> None:
        tensors = {f"layer{n}": torch.zeros(1) for n in range(8)} | nn.Linear(1, 1).state_dict()
        with pytest.raises(UserError, match="left over: layer0, layer1, layer2, layer3, layer4 and 3 more"):
            checkpoint.load_strictly(nn.Linear(1, 1), tensors, Path("x"))

    def test_fitting_weights_are_loaded(self) -> None:
        source, target = nn.Linear(3, 2), nn.Linear(3, 2)
        checkpoint.load_strictly(target, source.state_dict(), Path("x"))
        assert torch.equal(source.weight, target.weight)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, betas=(0.8, 0.9)),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "sgd without momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    def step(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        parameter.pow(3).sum().backward()
        optimizer.step()

    whole = nn.Parameter(torch.tensor([1.0, 2.0]))
    unused = nn.Parameter(torch.ones(3))  # has no state: it never had a gradient
    uninterrupted = OPTIMIZERS[name]([whole, unused])
    step(whole, uninterrupted)
    tensors, groups = checkpoint.optimizer_tensors(uninterrupted)
    checkpoint.save(tmp_path / "x.safetensors", tensors, {"groups": groups})
    resumed_parameter = nn.Parameter(whole.detach().clone())
    resumed = OPTIMIZERS[name]([resumed_parameter, nn.Parameter(torch.ones(3))])
    resumed.param_groups[0]["lr"] = 99.0
    read = checkpoint.load(tmp_path / "x.safetensors")
    checkpoint.restore_optimizer(resumed, read.tensors, read.metadata["groups"])
    for _ in range(2):
        step(whole, uninterrupted)
        step(resumed_parameter, resumed)
    assert torch.equal(whole, resumed_parameter)


class TestFolders:
    def test_steps_sort_and_the_oldest_are_pruned(self, tmp_path: Path) -> None:
        for step in (9, 10, 100, 99):
            checkpoint.save(checkpoint.step_path(tmp_path, step), {}, {"step": step})
        assert checkpoint.latest(tmp_path) == checkpoint.step_path(tmp_path, 100)
        checkpoint.prune(tmp_path, keep=2)
        assert sorted(tmp_path.iterdir()) == [checkpoint.step_path(tmp_path, step) for step in (99, 100)]
        checkpoint.prune(tmp_path, keep=5)
        assert len(list(tmp_path.iterdir())) == 2

    def test_nothing_is_the_latest_of_nothing(self, tmp_path: Path) -> None:
        assert checkpoint.latest(tmp_path / "absent") is None
        assert checkpoint.latest(tmp_path) is None


class TestModels:
    def save_step(self, run: Path, backbone: Backbone, step: int) -> None:
        """Write a training checkpoint: the evaluated network among other tensors."""
        folder = run / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        prefix = "method.teacher.backbone."
        tensors = {prefix + name: tensor for name, tensor in backbone.state_dict().items()}
        tensors |= {
            "method.student.backbone.net.norm.weight": torch.zeros(1),
            "optimizer.0.step": torch.ones(1),
        }
        metadata = {"backbone": to_dict(backbone.config), "evaluated_prefix": prefix, "step": step}
        checkpoint.save(checkpoint.step_path(folder, step), tensors, metadata)

    def check(self, path: Path, expected: Backbone) -> None:
        loaded = checkpoint.load_backbone(path)
        assert loaded.state_dict().keys() == expected.state_dict().keys()
        for name, tensor in expected.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.config.name == expected.config.name
        assert loaded.config.drop_path == 0
        assert not any(module.training for module in loaded.modules())

    def test_exported_folder_its_file_and_a_run(self, micro: Backbone, tmp_path: Path) -> None:
        checkpoint.export_backbone(tmp_path / "run" / "exported", micro)
        self.check(tmp_path / "run" / "exported", micro)
        self.check(tmp_path / "run" / "exported" / checkpoint.BACKBONE_WEIGHTS, micro)
        self.check(tmp_path / "run", micro)

    def test_newest_checkpoint_of_a_run(self, micro: Backbone, tmp_path: Path) -> None:
        torch.manual_seed(1)
        newer = build_backbone(micro.config)
        self.save_step(tmp_path, micro, 9)
        self.save_step(tmp_path, newer, 10)
        self.check(tmp_path, newer)
        self.check(checkpoint.step_path(tmp_path / "checkpoints", 9), micro)

    def test_the_newest_that_is_not_damaged(self, micro: Backbone, tmp_path: Path, caplog) -> None:
        self.save_step(tmp_path, micro, 9)
        self.save_step(tmp_path, micro, 10)
        earlier, newest = (checkpoint.step_path(tmp_path / "checkpoints", step) for step in (9, 10))
        whole = newest.read_bytes()
        newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 128]))
        with caplog.at_level(logging.WARNING):
            assert checkpoint.find_weights(tmp_path) == earlier
        assert str(newest) in caplog.text
        assert str(earlier) in caplog.text
        self.check(tmp_path, micro)
        metadata = checkpoint.newest_metadata(tmp_path / "checkpoints")
        assert metadata is not None
        assert metadata["step"] == 10  # its header is whole
        newest.write_bytes(whole[:-1])
        metadata = checkpoint.newest_metadata(tmp_path / "checkpoints")
        assert metadata is not None
        assert metadata["step"] == 9
        earlier.write_bytes(b"")
        with pytest.raises(UserError, match="No other checkpoint"):
            checkpoint.find_weights(tmp_path)
        with pytest.raises(UserError, match="not a readable safetensors file"):
            checkpoint.newest_metadata(tmp_path / "checkpoints")

    def test_the_settings_file_says_how_to_build_it(self, micro: Backbone, tmp_path: Path) -> None:
        checkpoint.export_backbone(tmp_path, micro)
        values = json.loads((tmp_path / checkpoint.BACKBONE_SETTINGS).read_text())
        assert values["backbone"]["name"] == "vit_micro_conv8"
        assert values["backbone"]["image_size"] == 32

    def test_weights_of_another_network_are_refused(self, micro: Backbone, tmp_path: Path) -> None:
        file = tmp_path / "x.safetensors"
        config = to_dict(BackboneConfig("resnet18"))
        checkpoint.save(file, build_backbone(micro.config).state_dict(), {"backbone": config})
        with pytest.raises(UserError, match="does not fit ResNet: missing"):
            checkpoint.load_backbone(file)

    def test_settings_of_another_version_are_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "x.safetensors"
        checkpoint.save(file, {}, {"backbone": {"name": "resnet18", "colour": "blue"}})
        with pytest.raises(UserError, match="colour"):
            checkpoint.load_backbone(file)

    def test_what_holds_no_model(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        for path, reason in [
            (tmp_path / "absent", "no file or folder"),
            (tmp_path / "folder", "holds no model: expected"),
            (file, "written by dinoscope for something else"),
        ]:
            with pytest.raises(UserError, match=reason):
                checkpoint.load_backbone(path)
