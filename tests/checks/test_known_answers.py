"""The check held against networks whose robustness is known on paper: each must get its figures and its verdict."""

import numpy as np
import pytest
import torch
from networks import masks, real
from torch import nn

import perturbify
from perturbify import CheckPlan, PerturbConfig, check, data
from perturbify.attacks import Pgd
from perturbify.checks import Case, preset

EPSILON = 0.2
PLAN = CheckPlan(
    attacks=(*preset("quick"), "eot"),
    epsilon=EPSILON,
    step_size=0.06,
    sweep=(0.25, 0.5, 2.0),
    gradients=10,
    images=None,
    sanity=None,
    queries=(1, 5, 10, 40),
)


@pytest.fixture(scope="module")
def digits():
    """Handwritten zeros and ones."""
    split = data.load("digits").train
    return split.subset((split.labels < 2).nonzero().flatten())


class Linear(nn.Module):
    """Two classes by one linear score, through a convolution of the whole image, so that noise has a place."""

    def __init__(self, weight, bias):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 8)
        self.conv.weight.data = torch.stack([-weight / 2, weight / 2])
        self.conv.bias.data = torch.tensor([-bias / 2, bias / 2])

    def forward(self, x):
        return self.conv(x).flatten(1)


@pytest.fixture(scope="module")
def linear(digits):
    """A linear classifier, fitted to the zeros and ones."""
    x, y = next(digits.batches(len(digits)))
    means = [x[y == k].mean(0) for k in range(2)]
    weight = means[1] - means[0]
    return Linear(weight, -float((weight * (means[0] + means[1]) / 2).sum()))


def margins(net, split, epsilon):
    """By how much the right class leads once the worst change of l∞ length ε within [0, 1] is made; exact."""
    x, y = next(split.batches(len(split)))
    weight = net.conv.weight[1] - net.conv.weight[0]
    signed = torch.where(y == 1, 1.0, -1.0)
    score = (weight * x).sum((1, 2, 3)) + net.conv.bias[1] - net.conv.bias[0]
    direction = signed[:, None, None, None] * weight
    room = torch.where(direction > 0, x, 1 - x).clamp(max=epsilon)
    return (signed * score - (direction.abs() * room).sum((1, 2, 3))).detach()


def noisy(net, theta, draw_per="sample"):
    config = PerturbConfig(theta_init=theta, draw_per=draw_per)
    return perturbify.wrap(net, config, example_input=torch.rand(2, 3, 8, 8))


def outcomes(report):
    return {c.name: c.outcome for c in report.criteria}


def accuracy(report, id):
    return report.result(id).accuracy


def test_a_robust_linear_classifier_gets_its_exact_accuracy(linear, digits):
    report = check(linear, digits, PLAN, sources={"a twin": linear})
    exact = float((margins(linear, digits, EPSILON) > 0).double().mean())
    assert 0.3 < exact < 0.95, "neither all nor none, or the test would say nothing"
    for id in ("fgsm", "pgd", "margin", "longer", "transfer from a twin"):
        assert accuracy(report, id) == pytest.approx(exact), id
    assert report.headline.accuracy == report.headline.best.value == pytest.approx(exact)
    for multiple in PLAN.sweep:
        left = float((margins(linear, digits, multiple * EPSILON) > 0).double().mean())
        assert accuracy(report, f"pgd at {multiple * EPSILON:.6g}") == left
    assert set(outcomes(report).values()) == {"pass"} and report.deterministic
    assert (report.verdict, report.status, report.dead_gradients) == ("established", 0, None)
    assert all(r.draws == 1 and {f.value for f in r.survival.values()} <= {r.accuracy} for r in report.results)


@pytest.mark.parametrize("draw_per", ["sample", "batch"])
def test_a_noisy_linear_classifier_gets_its_exact_accuracy(linear, digits, draw_per):
    """Both logits carry noise of deviation θ, so an image is right with probability Φ(margin / θ√2).

    Also where the network shares its noise over the batch: there averaging over copies of an image would average
    nothing, and the images of a batch would be right and wrong together.
    """
    theta = 3.0
    report = check(noisy(linear, theta, draw_per), digits, PLAN)

    def chances(epsilon):
        return 0.5 * (1 + torch.erf(margins(linear, digits, epsilon) / (2 * theta)))

    for id, epsilon in {"clean": 0, "eot": EPSILON, "margin": EPSILON}.items():
        p = chances(epsilon)
        deviation = float((p * (1 - p)).mean() / 20 / len(digits)) ** 0.5
        assert abs(accuracy(report, id) - float(p.mean())) < 4 * deviation, id
    assert accuracy(report, "twin-clean") == float((margins(linear, digits, 0) > 0).double().mean())
    exact_twin = float((margins(linear, digits, EPSILON) > 0).double().mean())
    assert accuracy(report, "twin-margin") == exact_twin
    low, high = report.headline.noise_adds.interval
    assert low < float(chances(EPSILON).mean()) - exact_twin < high
    assert "fail" not in outcomes(report).values() and not report.deterministic
    survival = {q: f.value for q, f in report.clean.survival.items()}
    assert survival[1] == pytest.approx(report.clean.accuracy)
    for queries in (5, 10, 40):
        assert abs(survival[queries] - float((chances(0) ** queries).mean())) < 0.06
    assert list(survival.values()) == sorted(survival.values(), reverse=True)


def test_the_worst_of_identical_attacks_is_each_attack(linear, digits):
    """All follow the same gradient to the same point, and the clean image is no attack."""
    report = check(noisy(linear, 3.0), digits, PLAN)
    chances = 0.5 * (1 + torch.erf(margins(linear, digits, EPSILON) / 6))
    assert report.headline.accuracy == pytest.approx(report.headline.best.value, abs=0.005)
    assert report.headline.accuracy == pytest.approx(float(chances.mean()), abs=0.01)
    exact = {"all of 5": chances**5, "all of 10": chances**10, "at least 1 of 10": 1 - (1 - chances) ** 10}
    for name, p in exact.items():
        low, high = report.resubmissions[name].interval
        assert low < float(p.mean()) < high, name


def test_pure_noise_has_nothing_to_defend(linear, digits):
    """No attack lowers the accuracy of a coin; a check that only looks at differences would call it robust."""
    report = check(noisy(linear, 1e6), digits, PLAN)
    assert outcomes(report)["clean accuracy is above chance"] != "pass" and report.status != 0
    for result in report.results:
        if result.noise == "on" and result.id != "known" and result.attacked == result.n:
            assert abs(result.accuracy - 0.5) < 4 * (0.25 / 20 / result.n) ** 0.5, result.id
    assert report.clean.survival[40].value < 0.05


MASKED = {
    "rounded": lambda net: masks.rounded(net, 4),
    "cold": lambda net: masks.cold(net, 1e5),
    "detached": masks.detached,
    "wrong way": masks.wrong_way,
    "random backward": lambda net: masks.backward(net, torch.randn_like),
    "NaN": lambda net: masks.backward(net, lambda g: g * float("nan")),
    "noise where watched": lambda net: masks.noise_where_watched(net, 20.0),
    "noise from the image": lambda net: masks.noise_from_the_image(net, 0.2),
    "a memory": masks.Remembering,
}


@pytest.mark.parametrize("mask", MASKED)
def test_no_masked_network_gets_status_zero(mask, linear, digits):
    """The classifier is as weak as it was before it was masked."""
    report = check(MASKED[mask](linear), digits, PLAN)
    assert (report.verdict, report.status) == ("failed", 3), outcomes(report)
    assert report.failures
    assert (report.dead_gradients is not None) == (mask in ("rounded", "cold", "detached", "NaN"))


def test_gradient_free_attacks_expose_a_masked_gradient(linear, digits):
    report = check(masks.rounded(linear, 4), digits, PLAN, sources={"unmasked": linear})
    white, transfer = report.result("margin"), report.result("transfer from unmasked")
    assert transfer.accuracy < white.accuracy - 0.1, "the gradient is masked, so the figure flatters it"
    judged = outcomes(report)
    assert judged["black-box never beats white-box"] == judged["the gradient is alive"] == "fail"
    assert judged["an unbounded attack reaches chance or below"] == "fail"
    assert report.headline.accuracy <= transfer.accuracy, "and the headline is not the flattering one"


def test_random_search_beats_a_misleading_gradient(linear, digits):
    weight = linear.conv.weight[1] - linear.conv.weight[0]
    close = Linear(weight.detach(), 2 * linear.conv.bias[1].item() - margins(linear, digits, 0).median().item())
    judged = outcomes(check(masks.wrong_way(close), digits, PLAN))
    assert judged["a step along the gradient helps more than a random one"] == "fail"
    assert judged["black-box never beats white-box"] == "fail"
    assert judged["an unbounded attack reaches chance or below"] != "pass"


class OwnNoise(nn.Module):
    """A user's network that draws by itself; one draw for the whole batch where ``shared``."""

    def __init__(self, net, deviation, shared=False):
        super().__init__()
        self.net, self.deviation, self.shared = net, deviation, shared

    def forward(self, x):
        logits = self.net(x)
        return logits + self.deviation * torch.randn_like(logits[:1] if self.shared else logits)


@pytest.mark.parametrize("shared", [False, True])
def test_a_users_own_noise(linear, digits, shared):
    report = check(OwnNoise(linear, 3.0, shared), digits, PLAN)
    assert report.noise_mode == "foreign" and any("random numbers" in remark for remark in report.remarks)
    assert report.clean.draws == 20 and report.status == 4
    chances = 0.5 * (1 + torch.erf(margins(linear, digits, EPSILON) / 6))
    assert abs(accuracy(report, "eot") - float(chances.mean())) < 0.05
    assert {r.on for r in report.results} == {"itself"} and {r.noise for r in report.results} == {"on"}
    assert report.headline.noise_adds is None, "nobody can say"


class NumpyNoise(OwnNoise):
    """Draws from numpy's global generator."""

    def forward(self, x):
        logits = self.net(x)
        drawn = np.random.standard_normal(tuple(logits.shape)).astype(np.float32)
        return logits + self.deviation * torch.from_numpy(drawn)


def test_noise_from_another_generator_is_seeded_too(linear, digits):
    plan = CheckPlan(attacks=("pgd",), epsilon=EPSILON, step_size=0.06, images=40)
    before = np.random.get_state()[2], np.random.get_state()[1].tolist()
    first, second = (check(NumpyNoise(linear, 3.0), digits, plan) for _ in range(2))
    assert (np.random.get_state()[2], np.random.get_state()[1].tolist()) == before
    assert first.noise_mode == "foreign" and 0 < first.clean.accuracy < 1
    assert [r.accuracy for r in first.results] == [r.accuracy for r in second.results]


def test_a_gain_over_a_baseline(linear, digits):
    """A network held against one whose weights only look at a few pixels, and against itself."""
    brittle = Linear(20 * (linear.conv.weight[1] - linear.conv.weight[0]).sign() * 0.05, 0.0)
    better = check(linear, digits, PLAN, against=("brittle", brittle))
    assert outcomes(better)["it is more robust than brittle"] == "pass" and better.headline.ahead.value > 0.1
    worse = check(brittle, digits, PLAN, against=("fitted", linear))
    assert outcomes(worse)["it is more robust than fitted"] == "fail" and worse.status == 3
    assert worse.headline.ahead.value == pytest.approx(-better.headline.ahead.value)
    same = check(linear, digits, PLAN, against=("itself again", linear))
    assert outcomes(same)["it is more robust than itself again"] == "undecided" and same.headline.ahead.value == 0
    assert accuracy(same, "margin of itself again") == accuracy(same, "margin")


def test_unmeasured_criteria_are_not_established(linear, digits):
    report = check(linear, digits, CheckPlan(attacks=("fgsm",), epsilon=EPSILON, images=None))
    judged = outcomes(report)
    open_ = {name for name, outcome in judged.items() if outcome == "not measured"}
    assert open_ == {
        "one step never beats many",
        "black-box never beats white-box",
        "a stronger attack never leaves a higher accuracy",
        "an unbounded attack reaches chance or below",
        "more steps and draws change nothing",
        "a larger ε never helps the model",
    }
    assert (report.verdict, report.status) == ("not established", 4)


# Networks whose figures somebody else has measured: ../shared/data/README.md, on the first 256 test images

FIGURES = {
    "cnn_a_adv4": (25.4, 21.1, 20.7, 48.8),
    "resnet4b_adv": (25.0, 16.4, 15.2, 63.3),
    "resnet20": (15.6, 0.0, 0.0, 0.4),
    "resnet44": (16.4, 0.0, 0.0, 0.8),
}


@real.needed
@pytest.mark.parametrize("name", [n if n == "cnn_a_adv4" else pytest.param(n, marks=pytest.mark.slow) for n in FIGURES])
def test_independent_figures_of_real_networks(name):
    """With another random start: four of ours lie up to 1.2 points apart on these 256 images."""
    cases = [
        Case("pgd-20", "PGD-20", "white box", Pgd(8 / 255, 2 / 255, 20)),
        Case("pgd-20-small", "PGD-20", "other", Pgd(2 / 255, 0.5 / 255, 20)),
    ]
    x, y = real.images(256)
    plan = CheckPlan(attacks=("fgsm", "pgd", *cases), images=None)
    report = check(real.network(name), (x, y), plan)
    found = [accuracy(report, id) for id in ("fgsm", "pgd", "pgd-20", "pgd-20-small")]
    assert [100 * a for a in found] == pytest.approx(FIGURES[name], abs=1.5)


@real.needed
@pytest.mark.slow
def test_quick_establishes_an_honest_real_network():
    x, y = real.images(256)
    report = check(real.network("cnn_a_adv4"), (x, y))
    assert (report.verdict, report.status) == ("established", 0), outcomes(report)
    assert report.headline.accuracy <= 0.211
