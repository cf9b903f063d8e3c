"""NT-Xent, InfoNCE, BYOL and SwAV: golden parity with gradients, slow plain versions, examples by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dinoscope.losses.contrastive import batch_info_nce, info_nce, nt_xent
from dinoscope.losses.dino import byol_loss, dino_loss
from dinoscope.losses.sinkhorn import sinkhorn

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(DATA / "golden_rivals.safetensors")


@pytest.fixture(scope="module")
def numbers() -> dict[str, float]:
    return json.loads((DATA / "golden_rivals.json").read_text())


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_the_recorded_value_and_gradient(temperature, golden, numbers) -> None:
    first = golden["simclr.a"].clone().requires_grad_()
    loss = nt_xent(first, golden["simclr.b"], temperature)
    loss.backward()
    assert loss.item() == pytest.approx(numbers[f"simclr.ntxent_tau{temperature}"], abs=1e-5)
    torch.testing.assert_close(first.grad, golden[f"simclr.grad_a_tau{temperature}"], atol=1e-6, rtol=1e-4)


def test_info_nce_equals_the_recorded_value_and_gradient(golden, numbers) -> None:
    """The recorded gradient is by the normalised query; ours, by the raw one, lacks its part along the query."""
    query = golden["moco.query"].clone().requires_grad_()
    loss = info_nce(query, golden["moco.key"], golden["moco.queue"].T, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(numbers["moco.infonce_tau0.2"], abs=1e-5)
    recorded, unit = golden["moco.grad_query"], golden["moco.query"]
    tangential = recorded - (recorded * unit).sum(dim=-1, keepdim=True) * unit
    torch.testing.assert_close(query.grad, tangential, atol=1e-6, rtol=1e-4)


def test_byol_equals_the_recorded_value(golden, numbers) -> None:
    prediction = torch.stack([golden["byol.p0"], golden["byol.p1"]])
    target = torch.stack([golden["byol.z0"], golden["byol.z1"]])
    recorded = numbers["byol.mean_of_negative_cosine(p0,z1),(p1,z0)"]
    assert byol_loss(prediction, target).item() == pytest.approx(2 + 2 * recorded, abs=1e-5)


def test_swav_equals_the_recorded_value(golden, numbers) -> None:
    scores = torch.stack([golden[f"swav.view{view}_prototype_scores"] for view in range(5)])
    codes = torch.stack([sinkhorn(view, 0.05, 3) for view in scores[:2]])
    loss = dino_loss(scores, codes, 0.1)
    assert loss.item() == pytest.approx(numbers["swav.loss_tau0.1_eps0.05_iter3"], abs=1e-5)


def test_nt_xent_equals_eq_1_written_as_loops() -> None:
    first, second, temperature = rows(0, 5, 7), rows(1, 5, 7), 0.3
    everyone = F.normalize(torch.cat([first, second]), dim=-1)
    terms: list[Tensor] = []
    for i in range(10):
        others = [torch.exp(everyone[i] @ everyone[k] / temperature) for k in range(10) if k != i]
        twin = torch.exp(everyone[i] @ everyone[(i + 5) % 10] / temperature)
        terms.append(-torch.log(twin / torch.stack(others).sum()))
    assert nt_xent(first, second, temperature).item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-12)


def test_nt_xent_by_hand() -> None:
    """Two images at right angles, both views equal: one twin at cosine 1, two others at 0: ln(1 + 2 e^-1) at tau 1."""
    views = torch.eye(2)
    assert nt_xent(views, 3 * views, 1.0).item() == pytest.approx(math.log(1 + 2 * math.exp(-1)), abs=1e-6)


@pytest.mark.parametrize("loss", [nt_xent, batch_info_nce])
def test_parts_of_a_batch_add_up_to_the_whole(loss) -> None:
    """What two processes compute for their halves, each against the gathered rows, is the loss of the whole batch."""
    first, second = rows(2, 6, 4), rows(3, 6, 4)
    whole = {3: first, 4: second}

    def everyones(part: Tensor) -> Tensor:
        """The other process's rows beside one's own: the whole view that this part was cut from."""
        candidates = [F.normalize(view, dim=-1) for view in whole.values()]
        return next(view for view in candidates if any(torch.equal(view[i : i + 3], part) for i in (0, 3)))

    halves = [loss(first[i : i + 3], second[i : i + 3], 0.2, gather=everyones, offset=i) for i in (0, 3)]
    assert torch.stack(halves).mean().item() == pytest.approx(loss(first, second, 0.2).item(), abs=1e-12)


def test_batch_info_nce_is_info_nce_with_the_other_keys_as_queue() -> None:
    query, key = rows(4, 6, 5), rows(5, 6, 5)
    unit = F.normalize(key, dim=-1)
    plain = [info_nce(query[i : i + 1], key[i : i + 1], torch.cat([unit[:i], unit[i + 1 :]]), 0.2) for i in range(6)]
    assert batch_info_nce(query, key, 0.2).item() == pytest.approx(torch.stack(plain).mean().item(), abs=1e-12)


def test_byol_pairs_every_view_with_every_other_target() -> None:
    prediction, target = rows(6, 4, 3, 5), rows(7, 2, 3, 5)
    terms = [
        (F.normalize(prediction[s], dim=-1) - F.normalize(target[t], dim=-1)).square().sum(dim=-1).mean()
        for t in range(2)
        for s in range(4)
        if s != t
    ]
    assert byol_loss(prediction, target).item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-12)


def test_byols_gradient_by_hand() -> None:
    """d cos(p, z) / dp = (z - cos(p, z) p) / |p| with p and z of length 1: the sphere's tangent towards z."""
    prediction, target = rows(8, 2, 3, 5).requires_grad_(), rows(9, 2, 3, 5)
    byol_loss(prediction, target).backward()
    unit, other = F.normalize(prediction.detach(), dim=-1), F.normalize(target, dim=-1).flip(0)
    cosine = (unit * other).sum(dim=-1, keepdim=True)
    by_hand = -2 * (other - cosine * unit) / prediction.detach().norm(dim=-1, keepdim=True) / (2 * 3)
    torch.testing.assert_close(prediction.grad, by_hand)


def test_swavs_gradient_by_hand(golden) -> None:
    """d/dz of -sum q ln softmax(z / tau) is (softmax(z / tau) - q) / tau, summed over the codes to predict."""
    scores = torch.stack([golden[f"swav.view{view}_prototype_scores"] for view in range(5)]).double().requires_grad_()
    codes = torch.stack([sinkhorn(view, 0.05, 3) for view in scores[:2].detach()])
    dino_loss(scores, codes, 0.1).backward()
    shares = torch.softmax(scores.detach() / 0.1, dim=-1)
    by_hand = torch.stack([sum((shares[v] - codes[g]) / 0.1 for g in range(2) if g != v) for v in range(5)])
    torch.testing.assert_close(scores.grad, by_hand / (8 * scores.shape[1]))


def test_large_logits_in_half_precision_stay_finite() -> None:
    views = (100 * torch.eye(4)).half()
    assert math.isfinite(nt_xent(views, views, 0.05).item())
    assert math.isfinite(info_nce(views, views, torch.eye(4), 0.05).item())
