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
from perturbify.attacks.libraries import Apgd, ApgdT, CarliniWagner, FabT, HopSkipJump, Square, StockAutoAttack, missing
from perturbify.errors import CheckError, ModelError

EPSILON = 8 / 255
BOUNDED = {
    "apgd-ce": Apgd("ce", EPSILON, steps=5, draws=2),
    "apgd-dlr": Apgd("dlr", EPSILON, steps=5, draws=2),
    "apgd-l2": Apgd("ce", 0.5, steps=5, draws=2, norm="l2"),
    "apgd-t": ApgdT(EPSILON, steps=5, targets=2, draws=2),
    "apgd-t-l2": ApgdT(0.5, steps=5, targets=2, draws=2, norm="l2"),
    "square": Square(EPSILON, queries=30, draws=2),
    "square-l2": Square(1.5, queries=30, draws=2, norm="l2"),
}
SMALLEST = {
    "c&w": CarliniWagner(steps=15, step_size=0.05, search_steps=5),
    "hopskipjump": HopSkipJump(steps=2, evaluations=20, draws=2),
    "hopskipjump-linf": HopSkipJump(steps=2, evaluations=20, draws=2, norm="linf"),
}
BORDERS = {
    "fab": FabT(EPSILON, steps=4, targets=2, draws=2),
    "fab-l2": FabT(0.5, steps=4, targets=2, draws=2, norm="l2"),
}
ATTACKS = BOUNDED | SMALLEST | BORDERS


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
def test_bounded_attacks_stay_inside_and_lower_accuracy(name, noisy, images):
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
@pytest.mark.parametrize("name", BORDERS)
def test_boundary_attacks_stay_inside_the_ball(name, noisy, images):
    x, y = images
    attack = BORDERS[name]
    torch.manual_seed(0)
    crafted = attack.craft(noisy, x, y)
    assert_images(crafted, x)
    distance = length(crafted.images - x, attack.norm)
    assert distance.max() <= attack.epsilon * (1 + 1e-5)
    # An image stays clean only where the average was wrong from the start.
    assert real.accuracy(noisy, x[distance == 0], y[distance == 0], 10) < 0.5
    torch.manual_seed(1)
    assert real.accuracy(noisy, crafted.images, y, 10) < real.accuracy(noisy, x, y, 10) - 0.05


@real.needed
@pytest.mark.parametrize("name", SMALLEST)
def test_minimum_norm_attacks_find_small_perturbations(name, net, images):
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
def test_square_matches_the_librarys_successes(net, images):
    from pyautoattack.square import SquareAttack

    x, y = images[0][:16], images[1][:16]
    crafted = Square(EPSILON, queries=60, draws=1).craft(net, x, y)
    with torch.no_grad():
        library = SquareAttack(net, norm="Linf", n_queries=60, eps=EPSILON, seed=0).perturb(x, y)
    ours, theirs = real.accuracy(net, crafted.images, y), real.accuracy(net, library, y)
    assert abs(ours - theirs) <= 3 / 16


def assert_same_successes(net, crafted, library, x, y):
    """What the library gives back changed is what it fooled."""
    with torch.no_grad():
        theirs = net(library).argmax(1) != y
    assert 0 < theirs.sum() < len(y)
    assert torch.equal(crafted.fooled, theirs)
    assert torch.equal(theirs, (library != x).flatten(1).any(1))


@real.needed
@pytest.mark.parametrize("loss", ["ce", "dlr", "t"])
def test_without_noise_apgd_matches_the_library(loss, net, images):
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    x, y = right(net, *images)
    epsilon, steps = 2 / 255, 20
    torch.manual_seed(0)
    if loss == "t":
        crafted = ApgdT(epsilon, steps, targets=3).craft(net, x, y)
        library = APGDAttack_targeted(net, n_iter=steps, eps=epsilon, seed=0, n_target_classes=3)
    else:
        crafted = Apgd(loss, epsilon, steps).craft(net, x, y)
        library = APGDAttack(net, n_iter=steps, eps=epsilon, loss=loss, seed=0)
    theirs = library.perturb(x, y)
    assert_same_successes(net, crafted, theirs, x, y)
    assert torch.equal(crafted.images[crafted.fooled], theirs[crafted.fooled])


@real.needed
def test_without_noise_fab_matches_the_librarys_successes(net, images):
    from pyautoattack.fab_pt import FABAttack_PT

    x, y = right(net, *images)
    epsilon = 2 / 255
    crafted = FabT(epsilon, steps=8, targets=2).craft(net, x, y)
    library = FABAttack_PT(net, n_iter=8, eps=epsilon, targeted=True, n_target_classes=2)
    assert_same_successes(net, crafted, library.perturb(x, y), x, y)


def right(net, x, y):
    with torch.no_grad():
        which = net(x).argmax(1) == y
    return x[which], y[which]


@real.needed
def test_fresh_draws_confirm_the_success_of_corrected_apgd(noisy, images):
    x, y = images[0][:24], images[1][:24]
    torch.manual_seed(0)
    crafted = Apgd("ce", 4 / 255, steps=10, draws=5).craft(noisy, x, y)
    assert abs(real.accuracy(noisy, crafted.images, y, 20) - (1 - crafted.fooled.float().mean().item())) < 0.2


class Lucky(nn.Module):
    """One answer in eight is wrong, whatever the image."""

    def forward(self, x):
        right = torch.rand(len(x), 1) < 7 / 8
        logits = torch.tensor([9.0, 0.0, 0.0]).where(right, torch.tensor([0.0, 9.0, 0.0]))
        return logits + 1e-3 * x.mean((1, 2, 3))[:, None]


def test_stock_version_counts_lucky_draws_ours_does_not():
    torch.manual_seed(0)
    x, y = torch.rand(200, 3, 2, 2), torch.zeros(200, dtype=torch.long)
    stock = StockAutoAttack("rand").craft(Lucky(), x, y)
    assert_images(stock, x)
    # It asks once before, once after APGD-CE and once after APGD-DLR.
    assert stock.fooled.float().mean().item() == pytest.approx(1 - (7 / 8) ** 3, abs=0.1)
    ours = Apgd("dlr", steps=20, draws=5).craft(Lucky(), x, y)
    assert ours.fooled.float().mean().item() == pytest.approx(1 / 8, abs=0.08)


@pytest.mark.parametrize("version", ["standard", "rand"])
def test_the_stock_version_leaves_nothing_behind(version):
    net, x, y = linear()
    attack, trace = StockAutoAttack(version, 0.3), sys.gettrace()

    def crafted():
        torch.manual_seed(1)
        return attack.craft(net, x, y).images

    with untouched(net, draws=True):
        assert torch.equal(crafted(), crafted())
    assert sys.gettrace() is trace


def test_stock_version_returns_clean_images_where_it_fails():
    net, x, y = linear()
    crafted = StockAutoAttack("standard", 0.03).craft(net, x, y)
    assert_images(crafted, x)
    assert (crafted.images - x).abs().max() <= 0.03 + 1e-6
    assert 0 < crafted.fooled.sum() < len(y)
    assert torch.equal(crafted.fooled, (crafted.images != x).flatten(1).any(1))
    assert torch.equal(crafted.fooled, net(crafted.images).argmax(1) != y)


def linear():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 10)).train()
    x = torch.rand(8, 3, 6, 6)
    return net, x, net(x).argmax(1)


@real.needed
def test_one_image_is_enough(net, images):
    x, y = images[0][:1], images[1][:1]
    for attack in ATTACKS.values():
        assert_images(attack.craft(net, x, y), x)


@real.needed
@pytest.mark.parametrize("name", ATTACKS)
def test_double_precision_is_preserved(name, net, images):
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
def test_every_apgd_draw_is_fresh(noisy, images, monkeypatch):
    monkeypatch.setattr("perturbify.attacks.libraries.averaged.randomness", lambda *_: "fresh")
    x, y = images[0][:2], images[1][:2]
    drawn = []
    site = next(m for _, m in perturbify.perturbations(noisy))
    site.register_forward_hook(lambda m, inputs, output: drawn.append((output - inputs[0])[0, 0, 0, :4].detach()))
    attack = Apgd(steps=3, draws=4, restarts=2)
    attack.craft(noisy, x, y)
    assert len(drawn) == attack.passes.forward + attack.passes.gradient
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn)


@real.needed
def test_square_and_hopskipjump_attack_fixed_realisations(noisy, images):
    x, y = images[0][:2], images[1][:2]
    drawn = set()
    site = next(m for _, m in perturbify.perturbations(noisy))
    site.register_forward_hook(
        lambda m, inputs, output: drawn.add(tuple((output - inputs[0])[0, 0, 0, :4].mul(1e3).round().tolist()))
    )
    Square(queries=8, draws=3).craft(noisy, x, y)
    assert 3 <= len(drawn) <= 3 + 3  # realisations, and those of the probe before them


@real.needed
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab", "square", "c&w", "hopskipjump"])
def test_the_stated_cost_is_the_actual_cost(name, noisy, images):
    x, y = images[0][:4], images[1][:4]
    attack = {"hopskipjump": HopSkipJump(steps=6, evaluations=50, draws=1), "square": Square(queries=40, draws=2)}
    if name == "fab":  # on images that are right, and at a radius that settles none
        x, y = right(noisy, *images)
        x, y, attack["fab"] = x[:4], y[:4], FabT(1e-6, steps=4, targets=2, draws=2)
    attack = attack.get(name, ATTACKS[name])
    passes = []
    noisy.register_forward_hook(lambda *_: passes.append(1))
    attack.craft(noisy, x, y)
    assert len(passes) == pytest.approx(attack.passes.forward + attack.passes.gradient, rel=0.25)


@real.needed
def test_images_that_resist_are_returned_clean(net, images):
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


def test_hopskipjump_without_a_starting_point_returns_clean_images():
    x, y = torch.rand(3, 3, 8, 8), torch.tensor([0, 0, 1])
    crafted = HopSkipJump(steps=1, evaluations=5).craft(Stubborn(), x, y)
    assert torch.equal(crafted.images, x)
    assert crafted.fooled.tolist() == [False, False, True]  # the last one was wrong already


def test_hopskipjump_can_start_from_another_image():
    x = torch.rand(3, 3, 8, 8)
    x[2] = 0.99
    crafted = HopSkipJump(steps=1, evaluations=5, draws=1).craft(Stubborn(bright=True), x, torch.tensor([0, 0, 1]))
    assert crafted.fooled.all()


class Deaf(nn.Module):
    def forward(self, x):
        return (x > 0.5).float().mean((2, 3)).repeat(1, 2)


@pytest.mark.parametrize(
    "attack", [Apgd(), ApgdT(), FabT(), CarliniWagner(), StockAutoAttack()], ids=lambda a: type(a).__name__
)
def test_a_network_without_gradients_is_refused(attack):
    with pytest.raises(ModelError, match="has no gradient with respect to its images"):
        attack.craft(Deaf(), torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("attack", "least"),
    [(Apgd("dlr"), 3), (ApgdT(), 4), (StockAutoAttack("rand"), 3), (StockAutoAttack("standard"), 4)],
    ids=lambda a: getattr(a, "version", type(a).__name__),
)
def test_too_few_classes_are_refused(attack, least):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, least - 1))
    with pytest.raises(CheckError, match=f"needs {least} or more classes, and Sequential has {least - 1}"):
        attack.craft(net, torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))
    assert f"{least} classes" in attack.needs


def test_two_classes_suffice_for_fab_and_cross_entropy():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    x = torch.rand(8, 3, 4, 4)
    y = net(x).argmax(1)
    for attack in (FabT(0.5, steps=3), Apgd("ce", 0.5, steps=3), Square(0.5, 20)):
        assert attack.craft(net, x, y).fooled.any()


class Rounded(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).round()


@real.needed
def test_square_crosses_plateaus_that_stop_the_library(net, images):
    from pyautoattack.square import SquareAttack

    x, y = images
    net = Rounded(net).eval()
    torch.manual_seed(0)
    ours = Square(EPSILON, queries=200).craft(net, x, y).images
    with torch.no_grad():
        theirs = SquareAttack(net, n_queries=200, eps=EPSILON, seed=0).perturb(x, y)
    assert real.accuracy(net, ours, y) < real.accuracy(net, theirs, y) - 0.05


def test_square_stops_at_success_without_noise():
    asked = []

    class Asked(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return torch.stack([x.mean((1, 2, 3)) - 0.52, torch.zeros(len(x))], 1)

    torch.manual_seed(0)
    x = torch.linspace(0.5, 0.535, 12).view(-1, 1, 1, 1).repeat(1, 3, 6, 6)
    crafted = Square(0.1, queries=100).craft(Asked(), x, torch.zeros(12, dtype=torch.long))
    searched = asked[asked.index(12) : -1]
    assert crafted.fooled.all() and sum(asked) < 12 * 60
    assert searched == sorted(searched, reverse=True)


class Draws(nn.Module):
    """Draws by itself, from the global generator or one of its own."""

    def __init__(self, generator=None):
        super().__init__()
        self.generator = generator

    def forward(self, x):
        bright = 20 * (x.mean((2, 3)) - 0.5) + torch.randn(len(x), 3, generator=self.generator)
        return torch.cat([bright, -bright], 1)


@pytest.mark.parametrize("own", [False, True], ids=["seeded", "unseeded"])
def test_under_foreign_noise_whole_batches_are_searched(own):
    sizes = []
    net = Draws(torch.Generator().manual_seed(0) if own else None)
    net.register_forward_hook(lambda m, inputs, _: sizes.append(len(inputs[0])))
    torch.manual_seed(0)
    x = torch.full((9, 3, 6, 6), 0.55)
    y = torch.zeros(9, dtype=torch.long)
    crafted = Square(0.1, queries=60, draws=4).craft(net, x, y)
    assert sizes.count(9) >= 4 * 61 and len(sizes) < 4 * 61 + 40
    less = real.accuracy(net, x, y, 400) - real.accuracy(net, crafted.images, y, 400)
    assert less > (0 if own else 0.1)


class Broken(nn.Module):
    """Gradients, or logits, that are not numbers, for the images of some of its forwards or for all of them."""

    def __init__(self, what, every):
        super().__init__()
        self.what, self.every, self.calls = what, every, 0

    def forward(self, x):
        self.calls += 1
        mean = 8 * (x.mean((2, 3)) - 0.5)
        logits = torch.cat([mean, -mean], 1)[:, :5]
        if self.calls % self.every:
            return logits
        if self.what == "logits":
            return logits * torch.nan
        zero = x.sum((1, 2, 3)) * 0
        return logits + (zero.abs().sqrt() * 1)[:, None]  # the root's slope at 0 is infinite: 0 × ∞ in the backward


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("what", ["gradient", "logits"])
@pytest.mark.parametrize("name", [*BOUNDED, *BORDERS])
def test_nan_outputs_do_not_stop_an_attack(name, what, every):
    torch.manual_seed(0)
    x, y = torch.rand(5, 3, 8, 8), torch.arange(5)
    crafted = ATTACKS[name].craft(Broken(what, every), x, y)
    assert_images(crafted, x)
    if what == "logits" and every == 1:
        assert crafted.fooled.all()


def test_images_too_small_for_squares_are_refused():
    with pytest.raises(CheckError, match="5 pixels a side, not 4×8"):
        Square(norm="l2").craft(nn.Flatten(), torch.rand(2, 3, 4, 8), torch.zeros(2, dtype=torch.long))


def test_missing_reports_the_needed_library(monkeypatch):
    assert missing(CarliniWagner()) is None and missing(Pgd()) is None
    monkeypatch.setattr("perturbify.attacks.libraries.find_spec", lambda _: None)
    assert missing(CarliniWagner()) == missing(HopSkipJump()) == "foolbox"
    assert missing(Apgd()) is None and missing(Pgd()) is None


@pytest.mark.parametrize(
    ("attack", "library", "package"),
    [
        (Apgd(), "pyautoattack", "pyautoattack"),
        (FabT(), "pyautoattack", "pyautoattack"),
        (CarliniWagner(), "foolbox", r"'perturbify\[attacks\]'"),
    ],
)
def test_an_absent_library_is_named(attack, library, package, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.meta_path", [f for f in sys.meta_path if "editable" not in repr(f).lower()])
    with pytest.raises(CheckError, match=f"{library} is not installed. Install it with pip install {package}"):
        attack.craft(nn.Flatten(), torch.rand(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (Apgd, {"loss": "mse"}),
        (Apgd, {"norm": "l0"}),
        (Apgd, {"epsilon": 2.0}),
        (Apgd, {"draws": 0}),
        (ApgdT, {"targets": 0}),
        (ApgdT, {"at_once": 0}),
        (FabT, {"norm": "l1"}),
        (FabT, {"steps": 0}),
        (StockAutoAttack, {"version": "plus"}),
        (StockAutoAttack, {"epsilon": -1.0}),
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
def test_settings_out_of_range_are_refused(attack, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        attack(**wrong)
