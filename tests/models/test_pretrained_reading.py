"""Files of others are read without running anything in them; what is no file of weights is said to be what it is."""

from __future__ import annotations

import io
import pickle
import re
import sys
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope.errors import UserError
from dinoscope.models.pretrained import import_file
from dinoscope.models.pretrained.reading import no_weights
from tests.models.test_pretrained import load
from tests.official_files import dino_checkpoint, random_network, register_tiny, weights


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)


class Evil:
    """Would make a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(zipped: bool, tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"state_dict": weights(random_network("tiny")), "x": Evil(trace)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"Python objects besides weights.*can run code.*weights_only=False") as refusal:
        import_file(file)
    assert "\n" not in str(refusal.value)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the trap does work


def test_the_way_out_of_a_refusal_keeps_every_weight_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of Python that the refusal names, run as it stands."""
    network = random_network("tiny")
    content = dino_checkpoint(network, network) | {"x": Evil(tmp_path / "trace")}
    torch.save(content, tmp_path / "IN")
    with pytest.raises(UserError) as refusal:
        import_file(tmp_path / "IN")
    line = re.search('python -c "(.*)"', str(refusal.value)) or pytest.fail("no way out")
    monkeypatch.chdir(tmp_path)
    exec(line[1], {})
    assert import_file(tmp_path / "OUT")[1].line().startswith("DINO, full checkpoint (DINO), its teacher: tiny")


def pickled_as(module: str, name: str, base: type = object) -> type:
    """A class that goes into a pickle under a name of another package, which is not here."""
    made = type(name, (base,), {"__module__": module})
    setattr(sys.modules[module], name, made)
    return made


@pytest.mark.parametrize("zipped", [True, False])
def test_logs_and_settings_of_mmengine_and_lightning_are_passed_over(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = ("mmengine.logging.history_buffer", "lightning_fabric.utilities.data")
    for module in foreign:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    history = pickled_as(foreign[0], "HistoryBuffer")
    history.mean = lambda self: 0.0  # pyright: ignore
    history.mean.__module__, history.mean.__qualname__ = foreign[0], "HistoryBuffer.mean"  # pyright: ignore
    log = history()
    log.__dict__.update(numbers=np.arange(3.0), best=np.float64(71.5), methods={"mean": history.mean})  # pyright: ignore
    settings = pickled_as(foreign[1], "AttributeDict", dict)(lr=0.1)
    content = {
        "state_dict": weights(random_network("resnet18"), "backbone."),
        "message_hub": {"log_scalars": OrderedDict(loss=log)},
        "hyper_parameters": settings,
        "best": np.float64(71.5),
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    for module in foreign:
        monkeypatch.delitem(sys.modules, module)
    _, found = import_file(tmp_path / "x.pth")
    assert (found.architecture, found.way) == ("resnet18", "state_dict/backbone.")


def test_a_teacher_alone_is_dino_s_by_its_head(tmp_path: Path) -> None:
    network = random_network("tiny")
    whole = dino_checkpoint(network, network)
    for content in ({"teacher": whole["teacher"]}, {"student": whole["student"]}, whole["teacher"]):
        loaded, found = load(tmp_path, content)
        assert (found.layout, found.method) == ("DINO, network and head", "DINO")
        assert torch.equal(loaded.net.cls_token, network.net.cls_token)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    tensors = weights(random_network("tiny"))
    tensors["norm.weight"][3] = value
    with pytest.raises(UserError, match=r"NaN or infinite\), as norm\.weight: it is damaged"):
        load(tmp_path, tensors)


PLAIN_PICKLE = pickle.dumps({"x": Path.touch}, protocol=4)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: whole[: len(whole) // 2], "damaged or cut off; fetch it again"),
        (lambda _: b"\n<!DOCTYPE html><html>", "a web page"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (lambda _: b"", "empty"),
        (lambda _: PLAIN_PICKLE, "could run code, so it was not opened"),
        (lambda _: archive("net/data.pkl", "net/constants.pkl"), "TorchScript program, which is code"),
        (lambda _: archive("word/document.xml"), "archive of another kind"),
        (lambda whole: whole.replace(b"PK\x01\x02", b"PK\x00\x00"), "damaged archive; fetch it again"),
        (lambda _: b"ONNX, or anything", "of another kind"),
    ],
)
def test_damaged_files_are_said_to_be(damage: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    file = tmp_path / "damaged.pth"
    torch.save(weights(random_network("tiny")), file)
    file.write_bytes(damage(file.read_bytes()))
    with warnings.catch_warnings(action="error"), pytest.raises(UserError, match=said) as refusal:
        import_file(file)
    assert "\n" not in str(refusal.value)


def archive(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return made.getvalue()


def test_a_file_that_is_not_there_and_a_damaged_safetensors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        import_file(tmp_path / "absent.pth")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        import_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("module.backbone.layers.0.blocks.1.attn.relative_position_bias_table", "Swin Transformer"),
        ("blocks_token_only.0.norm1.weight", "CaiT"),
        ("blocks.0.mlp.w12.weight", "ViT-g"),
        ("blocks.0.attn.relative_position_bias_table", "BEiT"),
    ],
)
def test_networks_that_are_not_supported_are_called_by_their_name(name: str, kind: str, tmp_path: Path) -> None:
    """EsViT's files, for one, begin like a ViT."""
    content = {"teacher": {name: torch.ones(2), "backbone.patch_embed.proj.weight": torch.ones(96, 3, 4, 4)}}
    with pytest.raises(UserError, match=f"holds an? .*{kind}.*, which is not supported"):
        load(tmp_path, content)


def test_the_length_before_a_safetensors_file_is_no_web_page(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(0x3C20.to_bytes(8, "little") + b"{}")  # in little-endian bytes " <"
    assert no_weights(file) == ""
