"""What may be named as a model: runs, exports, files, and random weights of either a network or a model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.files import cache_folder
from dinoscope.model_names import distinct, load_model, load_models, shipped_model
from dinoscope.models.backbone import BackboneConfig, build_backbone


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", image_size=48, mean=(0.5, 0.5, 0.5)))
    checkpoint.export_backbone(tmp_path / "mine" / "exported", backbone)
    return tmp_path / "mine"


def test_a_run_is_labelled_by_its_folder(exported: Path):
    models = [load_model(str(path)) for path in (exported, exported / "exported")]
    assert {model.label for model in models} == {"mine"}
    assert all(not model.backbone.training for model in models)


def test_random_weights_of_a_network_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (load_model("random:vit_tiny_patch4_32").backbone for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.config.image_size == 32
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_random_weights_of_a_model_keep_its_config_but_not_its_weights(exported: Path):
    trained, random = load_models([str(exported), f"random:{exported}"])
    assert random.backbone.config == trained.backbone.config
    assert not torch.equal(next(trained.backbone.parameters()), next(random.backbone.parameters()))
    assert random.path is None
    assert random.label == "random vit_micro_conv8"


def test_labels_that_would_be_the_same_are_told_apart(exported: Path, tmp_path: Path):
    other = tmp_path / "elsewhere" / "mine"
    checkpoint.export_backbone(other, load_model(str(exported)).backbone)
    labels = [model.label for model in load_models([str(exported), str(other), str(other)])]
    assert labels == [f"{tmp_path.name}/mine", "elsewhere/mine", "elsewhere/mine (2)"]


def test_checkpoints_of_one_run_are_told_apart_by_their_steps(exported: Path, tmp_path: Path):
    files = [exported / "checkpoints" / f"step-{step}.safetensors" for step in (1, 2)]
    files[0].parent.mkdir()
    for file in files:
        shutil.copy(exported / "exported" / "backbone.safetensors", file)
    assert distinct([("mine", file) for file in files]) == ["mine/step-1", "mine/step-2"]


def test_labels_get_as_much_of_their_paths_as_is_needed():
    paths = [Path("/a/x/seed/masks"), Path("/b/x/seed/masks"), Path("/b/y/seed/masks"), Path("/c/other")]
    labels = [*((path.name, path) for path in paths), ("other", None)]
    assert distinct(labels) == ["a/x/seed/masks", "b/x/seed/masks", "y/seed/masks", "c/other", "other"]


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "no model"), (["random:vit_smal"], "neither a network nor a model"), (["nowhere"], "no file or folder")],
)
def test_what_is_no_model_is_refused(names: list[str], said: str):
    with pytest.raises(UserError, match=said):
        load_models(names)


def test_the_shipped_model_has_a_name():
    model = load_model("shipped")
    assert (model.name, model.label, model.path) == ("shipped", "shipped", shipped_model())
    assert model.weights == "shipped"  # in the footnotes of every evaluation, which show no path of the package
    assert load_model(str(shipped_model())).weights == str(shipped_model() / "backbone.safetensors")


def test_random_is_the_network_of_the_first_other_model_without_training(exported: Path):
    untrained, trained = load_models(["random", str(exported)])
    assert untrained.backbone.config == trained.backbone.config
    assert untrained.weights_hash == load_model(f"random:{exported}").weights_hash
    with pytest.raises(UserError, match="another model"):
        load_models(["random"])


def test_results_of_a_run_are_kept_in_it_and_all_others_in_the_cache(exported: Path, tmp_path: Path):
    assert load_model(str(exported)).home == cache_folder("measurements") / load_model(str(exported)).weights_hash
    (exported / "config.json").write_text(json.dumps({"version": "1", "run": {"method": {"kind": "BYOLConfig"}}}))
    run = load_model(str(exported))
    assert (run.home, run.run, run.method) == (exported, exported, "byol")
