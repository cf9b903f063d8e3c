"""What is particular to SimCLR, MoCo, BYOL, SwAV and supervised training: queues, prototypes, groups, refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dinoscope.data.views import ViewsConfig
from dinoscope.errors import UserError
from dinoscope.methods import build_method
from dinoscope.methods.byol import BYOLConfig
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.moco import MoCo, MoCoConfig
from dinoscope.methods.simclr import SimCLR, SimCLRConfig
from dinoscope.methods.supervised import Supervised, SupervisedConfig
from dinoscope.methods.swav import SwAV, SwAVConfig
from dinoscope.model_names import random_backbone
from dinoscope.models.backbone import BackboneConfig, without_drop_path
from dinoscope.training.config import OptimizerConfig, RunConfig, check
from dinoscope.types import Step, StepOutput, Views
from tests.conformance import cases

VIT = BackboneConfig("vit_micro_conv8", image_size=32)
RESNET = BackboneConfig("resnet_micro", image_size=32)
START = Step(0, 10, 5)
SMALL = {"hidden_dim": 16, "projection_dim": 8}


def views(batch: int = 4, num_global: int = 2) -> Views:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_global, batch, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Views(images, None, torch.arange(batch), torch.arange(batch) % 2)


def moco(**changes: object) -> MoCo:
    torch.manual_seed(0)
    return MoCo(replace(MoCoConfig(**SMALL, queue_size=8), **changes), VIT)


def test_keys_replace_the_oldest_of_the_queue_in_order() -> None:
    method = moco()
    before = method.queue.clone()
    for step in range(3):
        output = method.loss(method.encode(views()), START)
        method.after_step(START, output)
        place = slice(4 * (step % 2), 4 * (step % 2) + 4)
        assert torch.equal(method.queue[place], output.rows["key"][0])
        assert int(method.queue_position) == 4 * ((step + 1) % 2)
    assert not torch.isclose(before, method.queue).all(dim=1).any()
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(8))


def test_v3_begins_with_fixed_sine_cosine_positions_and_xavier_weights() -> None:
    """As in facebookresearch/moco-v3: rows before columns, sines before cosines, query, key and value maps apart."""
    shape = BackboneConfig("vit_micro_patch4_64", image_size=16)
    torch.manual_seed(0)
    method = MoCo(replace(MoCoConfig(**SMALL, queue_size=0), v3_initialization=True), shape)
    net = method.backbone.net
    positions, width = net.pos_embed, method.backbone.dim
    assert not positions.requires_grad
    assert "backbone.net.pos_embed" not in dict(method.trained_parameters())
    assert torch.equal(positions[0, 0], torch.zeros(width))
    cell, quarter = positions[0, 1 + 4 * 2 + 3], width // 4  # row 2, column 3 of 4 x 4
    for place, part in ((2, cell[: 2 * quarter]), (3, cell[2 * quarter :])):
        angles = [place / 10_000 ** (i / quarter) for i in range(quarter)]
        assert part.tolist() == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)], abs=1e-5)
    block = net.blocks[0]
    for weight, limit in (
        (block.attn.qkv.weight, math.sqrt(6 / (2 * width))),
        (block.attn.proj.weight, math.sqrt(6 / (2 * width))),
        (block.mlp.fc1.weight, math.sqrt(6 / (3 * width))),
        (net.patch_embed.proj.weight, math.sqrt(6 / (3 * 4 * 4 + width))),
    ):
        assert 0.98 * limit < weight.abs().max() <= limit
        assert float(weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert net.cls_token.abs().max() < 1e-5
    assert torch.equal(method.key_backbone.net.pos_embed, positions)


def test_the_second_view_is_the_key_unless_symmetric() -> None:
    """Nothing else is computed: a query of view 0, a key of view 1; with more views, queries of all but view 1."""
    both, one = moco(symmetric=True).encode(views()), moco().encode(views())
    torch.testing.assert_close(one["query"][0], both["query"][0])
    torch.testing.assert_close(one["key"][0], both["key"][1])
    assert (len(one["query"]), len(one["key"])) == (1, 1)
    assert len(moco().encode(views(num_global=3))["query"]) == 2
    keys = moco(symmetric=True).loss(both, START).rows["key"]
    assert torch.equal(keys, F.normalize(both["key"], dim=-1))


def test_shuffled_groups_come_back_in_order() -> None:
    """In evaluation mode batch norm does not see the groups, so shuffling must not show."""
    torch.manual_seed(0)
    method = MoCo(MoCoConfig(**SMALL, queue_size=8, shuffle_groups=2), RESNET).eval()
    assert method.shuffled
    whole = MoCo(replace(method.config, shuffle_groups=1), RESNET).eval()
    whole.load_state_dict(method.state_dict())
    torch.testing.assert_close(method.encode(views())["key"], whole.encode(views())["key"])


def test_shuffled_groups_have_statistics_of_their_own() -> None:
    torch.manual_seed(0)
    method = MoCo(MoCoConfig(**SMALL, queue_size=8, shuffle_groups=2), RESNET)
    method.encode(views())
    counts = [module.num_batches_tracked for module in method.key_backbone.modules() if hasattr(module, "running_mean")]
    assert counts
    assert all(int(count) == 2 for count in counts)


def test_a_frozen_patch_projection_is_not_trained() -> None:
    trained = [name for name, _ in moco(freeze_patch_projection=True).trained_parameters()]
    assert not any("patch_embed" in name for name in trained)
    assert any("patch_embed" in name for name, _ in moco().trained_parameters())


def swav(**changes: object) -> SwAV:
    torch.manual_seed(0)
    return SwAV(replace(SwAVConfig(**SMALL, num_prototypes=6, queue_size=8, queue_from_epoch=1), **changes), VIT)


def test_prototypes_stay_on_the_sphere_and_wait_at_first() -> None:
    method = swav(freeze_prototypes_steps=1)
    method.loss(method.encode(views()), START).loss.backward()
    method.before_update(START)
    assert method.prototypes.weight.grad is None
    method.loss(method.encode(views()), START).loss.backward()
    method.before_update(Step(1, 10, 5))
    assert method.prototypes.weight.grad is not None
    with torch.no_grad():
        method.prototypes.weight.mul_(3)
    method.after_step(START, StepOutput(torch.zeros(())))
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(6))


def test_the_queue_fills_from_its_epoch_on_and_counts_when_full() -> None:
    method, later = swav(), Step(5, 10, 5)
    outputs = method.encode(views())
    assert method.loss(outputs, START).rows == {}
    first = method.loss(outputs, later)
    method.after_step(later, first)
    assert torch.equal(method.queue[:, :4], outputs["embedding"])
    half = method.loss(method.encode(views()), later)
    assert half.loss.item() == pytest.approx(first.loss.item())  # half full: not used yet
    with torch.no_grad():
        other = F.normalize(torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    method.after_step(later, StepOutput(torch.zeros(()), rows={"embedding": other}))
    assert torch.equal(method.queue, torch.cat([other, outputs["embedding"]], dim=1))
    assert method.loss(method.encode(views()), later).loss.item() != pytest.approx(first.loss.item(), abs=1e-4)


def test_byols_target_follows_by_a_cosine_to_1() -> None:
    method = build_method(BYOLConfig(**SMALL, target_momentum=0.5), VIT)
    online, target = method.get_submodule("projector.0"), method.get_submodule("target_projector.0")
    with torch.no_grad():
        online.weight.add_(1.0)
    begin = target.weight.clone()
    nothing = StepOutput(torch.zeros(()))
    method.after_step(Step(0, 10, 5), nothing)
    torch.testing.assert_close(target.weight, begin + 0.5)
    method.after_step(Step(10, 10, 5), nothing)
    torch.testing.assert_close(target.weight, begin + 0.5)


def test_supervised_loss_by_hand() -> None:
    """Two classes, logits 0: ln 2 with any smoothing. Logits (2, 0), smoothing 0.1: the targets are 0.95 and 0.05."""
    method = Supervised(SupervisedConfig(label_smoothing=0.1), VIT, classes=2)
    labels = torch.tensor([[0, 0]])
    even = method.loss({"logits": torch.zeros(1, 2, 2), "labels": labels}, START)
    assert even.loss.item() == pytest.approx(math.log(2), abs=1e-6)
    sure = method.loss({"logits": torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]), "labels": labels}, START)
    partition = math.log(math.exp(2) + 1)
    assert sure.loss.item() == pytest.approx(0.95 * (partition - 2) + 0.05 * partition, abs=1e-6)
    assert sure.logged["training_top1"].item() == 100


def test_simclr_pairs_no_two_local_views() -> None:
    """A pair of local views alone would change the loss; it must not."""
    method = SimCLR(SimCLRConfig(**SMALL), VIT)
    shared = torch.randn(2, 4, 8)
    alike = {"projection": shared, "local_projection": torch.randn(1, 4, 8).repeat(2, 1, 1)}
    one = {"projection": shared, "local_projection": alike["local_projection"][:1]}
    pairs = {name: method.loss(outputs, START).loss for name, outputs in (("two", alike), ("one", one))}
    # Pairs: (0, 1) and each global with each local. With two equal locals: (a + 4 b) / 5; with one: (a + 2 b) / 3.
    without = method.loss({"projection": shared, "local_projection": shared[:0]}, START).loss
    with_local = (3 * pairs["one"] - without) / 2
    torch.testing.assert_close(pairs["two"], (without + 4 * with_local) / 5)


def test_a_run_may_start_its_residual_branches_from_0_and_its_random_baseline_never_does(
    picture_folder, tmp_path: Path
) -> None:
    config = cases.run_config("byol", picture_folder(8), tmp_path / "run", backbone="resnet_micro")
    for zeroed in (False, True):
        method = cases.trainer(replace(config, zero_init_residual=zeroed)).method
        weights = method.state_dict()
        factors = [tensor for name, tensor in weights.items() if name.endswith(".bn2.weight")]
        assert len(factors) == 8  # online and target
        assert all((factor == (0 if zeroed else 1)).all() for factor in factors)
        zeroed_config = replace(config, zero_init_residual=zeroed).backbone_config
        random = random_backbone(without_drop_path(zeroed_config), config.seed).net.state_dict()
        assert all((random[f"layer{stage}.0.bn2.weight"] == 1).all() for stage in (1, 2, 3, 4))
        assert torch.equal(random["layer4.0.conv2.weight"], weights["backbone.net.layer4.0.conv2.weight"])


TWO = ViewsConfig(num_local=0, global_size=32)
REFUSED = {
    "queue not divisible (MoCo)": (
        {"method": MoCoConfig(queue_size=100)},
        "--method.queue-size 100 is not a multiple of --batch-size 8; nearest: 96",
    ),
    "queue not divisible (SwAV)": (
        {"method": SwAVConfig(queue_size=100, freeze_prototypes_steps=0)},
        "--method.queue-size 100 is not a multiple of --batch-size 8; nearest: 96",
    ),
    "queue of more keys than images": (
        {"method": MoCoConfig(queue_size=128)},
        "holds more keys than there are images (64)",
    ),
    "no labels": ({"method": SupervisedConfig()}, "supervised training needs labels"),
    "one image": ({"method": SimCLRConfig(), "batch_size": 1}, "--batch-size must be 2 or more"),
    "batch norm of one": (
        {"method": BYOLConfig(), "backbone": "resnet_micro", "accumulate": 8},
        "batch norm needs 2 images or more in a forward",
    ),
    "batch norm of one in a head": (
        {
            "method": BYOLConfig(),
            "accumulate": 8,
            "views": replace(TWO, num_global=1, num_local=1, local_size=16),
        },
        "batch norm needs 2 images or more in a forward",
    ),
    "groups of one": (
        {"method": MoCoConfig(queue_size=8), "backbone": "resnet_micro"},
        "--method.shuffle-groups 8 needs 2 images or more",
    ),
    "groups that do not divide": (
        {"method": MoCoConfig(queue_size=8, shuffle_groups=3), "backbone": "resnet_micro"},
        "cannot be cut into --method.shuffle-groups 3",
    ),
    "frozen projection of a ResNet": (
        {
            "method": MoCoConfig(queue_size=8, freeze_patch_projection=True, shuffle_groups=4),
            "backbone": "resnet_micro",
        },
        "--method.freeze-patch-projection is for Vision Transformers",
    ),
    "v3's first weights of a ResNet": (
        {"method": MoCoConfig(queue_size=8, v3_initialization=True, shuffle_groups=4), "backbone": "resnet_micro"},
        "--method.v3-initialization is for Vision Transformers",
    ),
    "frozen prototypes": ({"method": SwAVConfig(queue_size=0)}, "the prototypes would be frozen for all of the run's"),
    "one view": ({"method": DINOConfig(), "views": replace(TWO, num_global=1)}, "must add up to 2 or more"),
    "one key": ({"method": MoCoConfig(queue_size=8), "views": replace(TWO, num_global=1)}, "num-global must be 2"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_settings_that_do_not_fit_are_refused(case) -> None:
    changes, message = REFUSED[case]
    optimizer = OptimizerConfig(warmup_epochs=0, min_learning_rate=0)
    config = RunConfig(Path(), Path(), backbone="vit_micro_conv8", views=TWO, batch_size=8, optimizer=optimizer)
    with pytest.raises(UserError) as refusal:
        check(replace(config, **changes, epochs=2), images=64, processes=1)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SimCLRConfig, {"temperature": 0.0}),
        (MoCoConfig, {"key_momentum": 1.5}),
        (MoCoConfig, {"queue_size": -1}),
        (BYOLConfig, {"target_momentum": -0.1}),
        (SwAVConfig, {"epsilon": 0.0}),
        (SwAVConfig, {"num_prototypes": 1}),
        (SupervisedConfig, {"label_smoothing": 1.0}),
    ],
)
def test_impossible_settings_are_refused(kind, wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)
