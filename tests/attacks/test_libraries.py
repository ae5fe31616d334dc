"""The libraries' attacks, kept to our terms: inside the ball, by the caller's seed, and nothing left behind."""

import sys
from contextlib import nullcontext

import pytest
import torch
from networks import real
from networks.untouched import untouched
from torch import nn

import perturbify
from perturbify.attacks import Pgd
from perturbify.attacks.libraries import Apgd, CarliniWagner, HopSkipJump, Square
from perturbify.errors import CheckError, ModelError

EPSILON = 8 / 255
BOUNDED = {
    "apgd-ce": Apgd("ce", EPSILON, steps=5, draws=2),
    "apgd-dlr": Apgd("dlr", EPSILON, steps=5, draws=2),
    "apgd-l2": Apgd("ce", 0.5, steps=5, draws=2, norm="l2"),
    "square": Square(EPSILON, queries=30, draws=2),
    "square-l2": Square(1.5, queries=30, draws=2, norm="l2"),
}
SMALLEST = {
    "c&w": CarliniWagner(steps=15, step_size=0.05, search_steps=5),
    "hopskipjump": HopSkipJump(steps=2, evaluations=20, draws=2),
    "hopskipjump-linf": HopSkipJump(steps=2, evaluations=20, draws=2, norm="linf"),
}
ATTACKS = BOUNDED | SMALLEST


@pytest.fixture(scope="module")
def images():
    return real.images(48)


@pytest.fixture
def net():
    return real.network("cnn_a_adv4")


@pytest.fixture
def noisy(net, images):
    return perturbify.wrap(net, perturbify.PerturbConfig(theta_init=0.2), example_input=images[0][:2]).eval()


def assert_images(crafted, x):
    assert crafted.images.shape == x.shape and crafted.images.dtype == x.dtype
    assert not crafted.images.requires_grad
    assert ((crafted.images >= 0) & (crafted.images <= 1)).all()
    assert crafted.fooled.shape == (len(x),) and crafted.fooled.dtype == torch.bool


def length(change, norm):
    return change.flatten(1).norm(dim=1) if norm == "l2" else change.flatten(1).abs().amax(1)


@real.needed
@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_attacks_stay_inside_and_are_worth_something(name, noisy, images):
    x, y = images
    attack = BOUNDED[name]
    torch.manual_seed(0)
    crafted = attack.craft(noisy, x, y)
    assert_images(crafted, x)
    assert length(crafted.images - x, attack.norm).max() <= attack.epsilon * (1 + 1e-5)
    # None comes back clean: neither for want of success nor for a first draw that was wrong.
    assert length(crafted.images - x, attack.norm).min() > 0.5 * attack.epsilon
    torch.manual_seed(1)
    clean, attacked = real.accuracy(noisy, x, y, 10), real.accuracy(noisy, crafted.images, y, 10)
    assert attacked < clean - 0.02
    assert abs(attacked - (1 - crafted.fooled.float().mean().item())) < 0.15


@real.needed
@pytest.mark.parametrize("name", SMALLEST)
def test_the_others_find_small_perturbations(name, net, images):
    x, y = images[0][:24], images[1][:24]
    torch.manual_seed(0)
    crafted = SMALLEST[name].craft(net, x, y)
    assert_images(crafted, x)
    assert crafted.fooled.float().mean() > 0.9
    with torch.no_grad():
        wrong = net(crafted.images).argmax(1) != y
        clean_wrong = net(x).argmax(1) != y
    assert torch.equal(wrong, crafted.fooled)
    distance = length(crafted.images - x, SMALLEST[name].norm)
    assert distance[clean_wrong].max() < 1e-3
    assert 0 < distance[~clean_wrong & crafted.fooled].median() < {"l2": 8, "linf": 0.3}[SMALLEST[name].norm]


@real.needed
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_is_not_weaker_than_pgd(loss, net, images):
    x, y = images
    epsilon = 4 / 255
    torch.manual_seed(0)
    ours = real.accuracy(net, Pgd(epsilon, epsilon / 4, 20).craft(net, x, y).images, y)
    theirs = real.accuracy(net, Apgd(loss, epsilon, steps=20, draws=1).craft(net, x, y).images, y)
    assert theirs <= ours + 1.96 * (0.25 / len(y)) ** 0.5


@real.needed
def test_square_fools_the_images_that_the_library_fools(net, images):
    from pyautoattack.square import SquareAttack

    x, y = images[0][:16], images[1][:16]
    crafted = Square(EPSILON, queries=60, draws=1).craft(net, x, y)
    with torch.no_grad():
        library = SquareAttack(net, norm="Linf", n_queries=60, eps=EPSILON, seed=0).perturb(x, y)
    ours, theirs = real.accuracy(net, crafted.images, y), real.accuracy(net, library, y)
    assert abs(ours - theirs) <= 3 / 16


@real.needed
def test_one_image_is_enough(net, images):
    x, y = images[0][:1], images[1][:1]
    for attack in ATTACKS.values():
        assert_images(attack.craft(net, x, y), x)


@real.needed
@pytest.mark.parametrize("name", ATTACKS)
def test_double_precision_comes_back_as_such(name, net, images):
    x, y = images[0][:3].double(), images[1][:3]
    assert_images(ATTACKS[name].craft(net.double(), x, y), x)


@real.needed
@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_of_the_network_changes(name, fails, noisy, images):
    x, y = images[0][:4], images[1][:4]
    noisy.train()
    parameters = list(noisy.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    calls = []

    def count(*_):
        calls.append(1)
        if fails and len(calls) == 9:
            raise FloatingPointError("in the middle")

    noisy.register_forward_hook(count)
    expected = pytest.raises(FloatingPointError) if fails else nullcontext()
    with untouched(noisy, draws=True), expected:
        ATTACKS[name].craft(noisy, x, y)


@real.needed
@pytest.mark.parametrize("name", ATTACKS)
def test_the_callers_seed_decides(name, noisy, images):
    x, y = images[0][:3], images[1][:3]
    torch.manual_seed(1)
    first, second = (ATTACKS[name].craft(noisy, x, y).images for _ in range(2))
    assert not torch.equal(first, second)  # the generator moves on
    torch.manual_seed(1)
    assert torch.equal(ATTACKS[name].craft(noisy, x, y).images, first)


@real.needed
def test_every_draw_of_apgd_is_a_new_one(noisy, images):
    x, y = images[0][:2], images[1][:2]
    drawn = []
    site = next(m for _, m in perturbify.perturbations(noisy))
    site.register_forward_hook(lambda m, inputs, output: drawn.append((output - inputs[0])[0, 0, 0, :4].detach()))
    attack = Apgd(steps=3, draws=4, restarts=2)
    attack.craft(noisy, x, y)
    assert len(drawn) == attack.passes.forward + attack.passes.gradient
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn)


@real.needed
def test_square_and_hopskipjump_see_a_function(noisy, images):
    x, y = images[0][:2], images[1][:2]
    drawn = set()
    site = next(m for _, m in perturbify.perturbations(noisy))
    site.register_forward_hook(
        lambda m, inputs, output: drawn.add(tuple((output - inputs[0])[0, 0, 0, :4].mul(1e3).round().tolist()))
    )
    Square(queries=8, draws=3).craft(noisy, x, y)
    assert 3 <= len(drawn) <= 3 + 3  # realisations, and those of the probe before them


@real.needed
@pytest.mark.parametrize("name", ["apgd-ce", "square", "c&w", "hopskipjump"])
def test_the_cost_is_what_it_says(name, net, images):
    x, y = images[0][:4], images[1][:4]
    attack = {"hopskipjump": HopSkipJump(steps=6, evaluations=50, draws=1), "square": Square(queries=40, draws=1)}
    attack = attack.get(name, ATTACKS[name])
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    attack.craft(net, x, y)
    assert len(passes) == pytest.approx(attack.passes.forward + attack.passes.gradient, rel=0.25)


@real.needed
def test_images_that_withstand_come_back_clean(net, images):
    x, y = images[0][:8], images[1][:8]
    crafted = CarliniWagner(confidence=1e4, steps=2, search_steps=1).craft(net, x, y)
    assert not crafted.fooled.any() and torch.equal(crafted.images, x)


class Stubborn(nn.Module):
    """Takes everything for class 0, or by its brightness for 0 or 1."""

    def __init__(self, bright=False):
        super().__init__()
        self.bright = bright

    def forward(self, x):
        mean = 10 * x.mean((1, 2, 3))
        zero = torch.zeros_like(mean)
        return torch.stack([mean - mean + 1, mean - 9.5 + 1 if self.bright else zero, zero - 9], 1)


def test_hopskipjump_without_a_start_gives_clean_images():
    x, y = torch.rand(3, 3, 8, 8), torch.tensor([0, 0, 1])
    crafted = HopSkipJump(steps=1, evaluations=5).craft(Stubborn(), x, y)
    assert torch.equal(crafted.images, x)
    assert crafted.fooled.tolist() == [False, False, True]  # the last one was wrong already


def test_hopskipjump_starts_at_another_image_where_noise_does_not_help():
    x = torch.rand(3, 3, 8, 8)
    x[2] = 0.99
    crafted = HopSkipJump(steps=1, evaluations=5, draws=1).craft(Stubborn(bright=True), x, torch.tensor([0, 0, 1]))
    assert crafted.fooled.all()


class Deaf(nn.Module):
    def forward(self, x):
        return (x > 0.5).float().mean((2, 3))


@pytest.mark.parametrize("attack", [Apgd(), CarliniWagner()], ids=["apgd", "c&w"])
def test_a_network_without_a_gradient_is_not_called_robust(attack):
    with pytest.raises(ModelError, match="gives no gradient for its images"):
        attack.craft(Deaf(), torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))


def test_dlr_of_two_classes_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(CheckError, match="compares three classes, and Sequential has 2"):
        Apgd("dlr").craft(net, torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))


def test_images_too_small_for_squares_are_refused():
    with pytest.raises(CheckError, match="5 pixels a side, not 4×8"):
        Square(norm="l2").craft(nn.Flatten(), torch.rand(2, 3, 4, 8), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(("attack", "library"), [(Apgd(), "pyautoattack"), (CarliniWagner(), "foolbox")])
def test_an_absent_library_is_named(attack, library, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.meta_path", [f for f in sys.meta_path if "editable" not in repr(f).lower()])
    with pytest.raises(CheckError, match=rf"{library} is not installed. Install it with pip install 'perturbify\[att"):
        attack.craft(nn.Flatten(), torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (Apgd, {"loss": "mse"}),
        (Apgd, {"norm": "l0"}),
        (Apgd, {"epsilon": 2.0}),
        (Apgd, {"draws": 0}),
        (Square, {"epsilon": -1.0}),
        (Square, {"queries": 0}),
        (CarliniWagner, {"confidence": -1.0}),
        (CarliniWagner, {"step_size": 0.0}),
        (CarliniWagner, {"search_steps": 0}),
        (HopSkipJump, {"norm": "l0"}),
        (HopSkipJump, {"steps": 0}),
    ],
    ids=str,
)
def test_settings_out_of_their_range_are_refused(attack, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        attack(**wrong)
