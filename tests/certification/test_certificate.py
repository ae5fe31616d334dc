"""Certificates of networks whose answers are known."""

import math

import pytest
import torch
from torch import nn

import perturbify
from perturbify import methods
from perturbify.certification import certify, certify_split, find_mechanism
from perturbify.data.split import MemorySplit
from perturbify.errors import MethodError
from perturbify.methods import registry

UNIT = math.sqrt(2 * math.log(25))


class Head(nn.Module):
    """A 1×1 convolution that leaves grey images as they are, and logits by a function of its noisy output.

    With 10 channels, each is the image's first.
    """

    def __init__(self, answer, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1, bias=False)
        nn.init.zeros_(self.conv.weight)
        self.conv.weight.data[:, 0] = 1
        self.answer = answer

    def forward(self, x):
        return self.answer(self.conv(x))


def pixeldp(answer, channels=1, **how):
    network = perturbify.wrap(Head(answer, channels), method="pixeldp", example_input=torch.rand(2, 3, 1, 1), **how)
    return network.eval()


def constant(z):
    return torch.tensor([0.0, 0, 0, 1]).expand(len(z), 4) + 0 * z.sum((1, 2, 3))[:, None]


def threshold(z):
    """Two classes, above and below ½."""
    margin = z.mean((1, 2, 3)) - 0.5
    return torch.stack([margin, -margin], 1)


def grey(*values):
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 1, 1).clone()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_a_constant_network_by_hand():
    """All 40 votes for one of 4 classes: the bounds are ``(α / 2K)^(1/n)`` and 1 minus that.

    ``0.00625^(1/40) = 0.88084``: p = 0.88084 against q = 0.11916. In ``q t² + δ t + δ - p = 0``, ``t = 2.4391`` is the
    root, so ε = 0.8916, and by the noise of σ = 0.253727 for Δ = 1 the radius is a tenth of that.
    """
    found = certify(pixeldp(constant), torch.rand(3, 3, 1, 1), 40)
    p = (0.05 / 8) ** (1 / 40)
    t = (-0.05 + math.sqrt(0.05**2 + 4 * (1 - p) * (p - 0.05))) / (2 * (1 - p))
    assert math.log(t) == pytest.approx(0.8916, abs=1e-4)
    assert found.radii.tolist() == pytest.approx([0.1 * math.log(t)] * 3, rel=1e-5)
    assert found.classes.tolist() == [3, 3, 3] and found.certain.all()
    assert found.votes.tolist() == [[0, 0, 0, 40]] * 3 and found.draws == 40
    assert found.probabilities[0].tolist() == pytest.approx(torch.tensor([0.0, 0, 0, 1]).softmax(0).tolist())


def test_a_users_method_can_certify_too(monkeypatch):
    """Of σ = ½, and θ may learn: the radius is that of σ where it is least."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @methods.register
    class Mine(methods.Method):
        name = "mine"
        perturb = perturbify.PerturbConfig("channel", theta_init=0.5, theta_min=0.1, extent="first")

    network = perturbify.wrap(Head(constant, 2), method="mine", example_input=torch.rand(2, 3, 1, 1)).eval()
    network.conv.weight.data[1] = 0
    before = certify(network, torch.rand(1, 3, 1, 1), 40).radii.item()
    next(perturbify.perturbations(network))[1].theta.data[1] = 0.25
    after = certify(network, torch.rand(1, 3, 1, 1), 40).radii.item()
    assert before == pytest.approx(0.5 / UNIT * 0.8916, rel=1e-4) and after == pytest.approx(before / 2)


def test_more_draws_or_less_confidence_certify_more():
    network = pixeldp(constant)
    image = torch.rand(1, 3, 1, 1)
    few, many = (certify(network, image, n).radii.item() for n in (20, 400))
    bold = certify(network, image, 20, confidence=0.5).radii.item()
    assert 0 < few < bold < many
    assert many == find_mechanism(network).greatest_radius == pytest.approx(0.1)


def test_pure_noise_abstains():
    """Ten classes by the greatest of ten equal noises: nobody leads."""
    found = certify(pixeldp(lambda z: z.mean((2, 3)), channels=10), torch.rand(50, 3, 1, 1), 200)
    assert found.certain.sum() <= 2  # at 95% confidence each
    assert (found.radii == 0).all()
    assert found.votes.sum(1).eq(200).all()
    assert found.votes.float().mean(0).tolist() == pytest.approx([20] * 10, abs=2)


def test_radii_never_exceed_the_distance_to_adversarial_images():
    """A threshold on a pixel's red: the least perturbation that makes the other class the likelier one is known."""
    pixels = torch.linspace(0, 1, 101)
    found = certify(pixeldp(threshold), grey(*pixels.tolist()), 1000)
    distance = (pixels - 0.5).abs().double()
    right = found.classes == (pixels < 0.5).long()
    assert (found.radii[right] <= distance[right]).all() and (found.radii[~right] == 0).all()
    assert found.radii[0] > 0.09 and found.radii.count_nonzero() > 70


def test_doubling_the_weights_halves_the_radius():
    """Twice the weight, twice the sensitivity; on a network that answers the same, half the radius."""
    network = pixeldp(constant)
    image = torch.rand(1, 3, 1, 1)
    radius = certify(network, image, 40).radii.item()
    find_mechanism(network).convolution.weight.data.mul_(2)
    assert certify(network, image, 40).radii.item() == pytest.approx(radius / 2)
    find_mechanism(network).convolution.weight.data.zero_()
    with pytest.raises(MethodError, match="is 0, so its output is the same for every image"):
        certify(network, image, 40)


def test_the_bound_depends_on_the_image_size():
    """One pixel's grid of three lacks the worst frequency of an edge filter, π/2; that of two, of four, has it."""
    head = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head[0].weight.data = torch.zeros(1, 3, 3, 3)
    head[0].weight.data[0, :, 1] = torch.tensor([0.05, 0, -0.05])
    head.append(nn.Linear(1, 2))
    nn.init.constant_(head[3].weight, 0)
    head[3].bias.data = torch.tensor([0.0, 1])
    network = perturbify.wrap(head, method="pixeldp", example_input=torch.rand(2, 3, 1, 1)).eval()
    small, large = (certify(network, torch.rand(1, 3, n, n), 40).radii.item() for n in (1, 2))
    assert large / small == pytest.approx(math.sin(2 * math.pi / 3))
    with pytest.raises(MethodError, match="3 channels"):
        certify(network, torch.rand(1, 1, 2, 2), 40)


def test_a_network_in_train_mode_certifies_in_eval():
    """Dropout, which would drown every vote, is off; the mode is as it was."""
    network = pixeldp(nn.Sequential(nn.Flatten(), nn.Linear(1, 3), nn.Dropout(0.99))).train()
    network.answer[1].bias.data = torch.tensor([0.0, 0, 50])
    found = certify(network, torch.rand(1, 3, 1, 1), 40)
    assert found.votes.tolist() == [[0, 0, 40]]
    assert network.training and network.answer[2].training
    assert network.answer[1].weight.requires_grad


def test_with_the_noise_off_nothing_is_certified():
    network = pixeldp(constant)
    with perturbify.noise(network, enabled=False):
        assert certify(network, torch.rand(2, 3, 1, 1), 40).radii.tolist() == [0, 0]


def test_nan_outputs_give_no_vote():
    found = certify(pixeldp(lambda z: constant(z) / (z.mean((1, 2, 3))[:, None] > 0.5)), grey(0.5, 9.0), 100)
    assert 20 < found.votes[0].sum() < 80 and found.votes[1].tolist() == [0, 0, 0, 100]
    assert found.radii[0] < found.radii[1]
    never = certify(pixeldp(lambda z: constant(z) * math.nan), grey(0.5), 100)
    assert never.votes.sum() == 0 and never.radii.item() == 0 and not never.certain.item()


def test_images_get_their_own_draws_despite_batch_sharing():
    config = perturbify.PerturbConfig(
        grain="layer", draw_per="batch", theta_init=0.25, theta_min=None, learnable=False, extent="first"
    )
    network = pixeldp(threshold, config=config)
    found = certify(network, grey(*[0.5] * 20), 50)
    assert len(found.votes[:, 0].unique()) > 3
    assert {p.draw_per for _, p in perturbify.perturbations(network)} == {"batch"}


def test_predict_counts_votes_and_restores_the_network():
    """Sixty in a hundred votes go to the first class, by a hair; the others' softmax is certain."""

    def answer(z):
        high = z.mean((1, 2, 3)) > 0.5
        return torch.stack([torch.full_like(z[:, 0, 0, 0], 0.01), torch.where(high, 50.0, 0.0)], 1)

    network = pixeldp(answer).train()
    image = grey(0.5 - 0.2533 * 0.25)  # where the noise exceeds ½ in 40 of 100 draws
    found = perturbify.predict(network, image, draws=400)
    assert found.classes.item() == 0 and found.probabilities.argmax().item() == 1
    assert found.draws == 400 and found.radii.shape == (1,) and found.radii.dtype == torch.float32
    assert network.training and all(m.training for m in network.modules())
    assert perturbify.predict(network, image).draws == 50


def test_invalid_draw_counts_are_refused():
    for how, match in (({"draws": 0}, "draws"), ({"draws": 5, "confidence": 1.0}, "confidence")):
        with pytest.raises(ValueError, match=match):
            certify(pixeldp(constant), torch.rand(1, 3, 1, 1), **how)


# Whole splits


@pytest.fixture
def split():
    pixels = torch.randint(0, 256, (10, 3, 1, 1), dtype=torch.uint8)
    return MemorySplit(pixels, torch.zeros(10, dtype=torch.int64))


def test_a_split_batch_by_batch(split):
    network, seen = pixeldp(threshold), []
    random = torch.get_rng_state()
    found = certify_split(network, split, 20, batch_size=4, seed=3, on_progress=seen.append)
    assert torch.equal(torch.get_rng_state(), random)
    assert [len(getattr(found, f)) for f in ("classes", "votes", "probabilities", "radii", "certain")] == [10] * 5
    assert found.votes.sum(1).tolist() == [20] * 10
    assert [p.done for p in seen] == [0] * 19 + [4] + [4] * 19 + [8] + [8] * 19 + [10]
    assert {p.total for p in seen} == {10} and seen[-1].seconds_left == pytest.approx(0, abs=1e-6)
    assert all(p.seconds_left > 0 for p in seen[:-1])


def test_the_seed_decides(split):
    network = pixeldp(threshold)
    votes = [certify_split(network, split, 20, seed=seed).votes for seed in (0, 0, 1)]
    assert torch.equal(votes[0], votes[1]) and not torch.equal(votes[0], votes[2])


def test_a_changed_network_is_verified_before_certifying(split):
    network = pixeldp(threshold)
    network.get_submodule("conv").register_forward_pre_hook(lambda _m, inputs: (2 * inputs[0],))
    with pytest.raises(MethodError, match="conv does not take the image itself"):
        certify_split(network, split, 20)
