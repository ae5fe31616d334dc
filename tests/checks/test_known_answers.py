"""The check held against networks whose robustness is known on paper: each must get its figures and its verdict."""

import numpy as np
import pytest
import torch
from torch import nn

import perturbify
from perturbify import CheckPlan, PerturbConfig, check, data
from perturbify.text import fraction

EPSILON = 0.2
PLAN = CheckPlan(epsilon=EPSILON, step_size=0.06, images=None, tries=10, draws=20, queries=(1, 5, 10, 40))


@pytest.fixture(scope="module")
def digits():
    """Handwritten zeros and ones of scikit-learn."""
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


def noisy(net, theta, share="sample"):
    config = PerturbConfig(theta_init=theta, share=share)
    return perturbify.wrap(net, config, example_input=torch.rand(2, 3, 8, 8))


def rows(report, network="itself"):
    return {(r.attack, r.crafted_on): r for r in report.rows if r.network == network}


def verdicts(report):
    return {c.name: c.verdict for c in report.criteria}


def test_a_robust_linear_classifier_gets_its_exact_accuracy(linear, digits):
    report = check(linear, digits, PLAN, sources={"a twin": linear})
    exact = float((margins(linear, digits, EPSILON) > 0).double().mean())
    assert 0.3 < exact < 0.95, "neither all nor none, or the test would say nothing"
    found = rows(report)
    for attack in ("FGSM", "PGD-7", "PGD-10", "PGD-20"):
        assert found[attack, "noise off"].accuracy == pytest.approx(exact)
    for multiple in (0.25, 0.5, 2.0):
        name = f"PGD-7, ε = {fraction(multiple * EPSILON)}"
        assert found[name, "noise off"].accuracy == float(
            (margins(linear, digits, multiple * EPSILON) > 0).double().mean()
        )
    assert set(verdicts(report).values()) == {"pass"} and report.passed and report.deterministic
    assert all(r.draws == 1 and set(r.survival.values()) == {r.accuracy} for r in report.rows)


@pytest.mark.parametrize("share", ["sample", "batch"])
def test_a_noisy_linear_classifier_gets_its_exact_accuracy(linear, digits, share):
    """Both logits carry noise of deviation θ, so an image is right with probability Φ(margin / θ√2).

    Also where the network shares its noise over the batch: there averaging over copies of an image would average
    nothing, and the images of a batch would be right and wrong together.
    """
    theta = 3.0
    report = check(noisy(linear, theta, share), digits, PLAN)
    found = rows(report)

    def exact(epsilon):
        chances = 0.5 * (1 + torch.erf(margins(linear, digits, epsilon) / (2 * theta)))
        return float(chances.mean()), float((chances * (1 - chances)).mean() / 20 / len(digits)) ** 0.5

    for key, epsilon in {("clean", "noise on"): 0, ("EOT-PGD-7, 10 draws", "noise on"): EPSILON}.items():
        mean, deviation = exact(epsilon)
        assert abs(found[key].accuracy - mean) < 4 * deviation, key
    assert found["clean", "noise off"].accuracy == float((margins(linear, digits, 0) > 0).double().mean())
    assert "fail" not in verdicts(report).values() and not report.deterministic
    survival = found["clean", "noise on"].survival
    assert survival[1] == pytest.approx(found["clean", "noise on"].accuracy)
    chances = 0.5 * (1 + torch.erf(margins(linear, digits, 0) / (2 * theta)))
    for queries in (5, 10, 40):
        assert abs(survival[queries] - float((chances**queries).mean())) < 0.06
    assert list(survival.values()) == sorted(survival.values(), reverse=True)


def test_pure_noise_has_nothing_to_defend(linear, digits):
    """No attack lowers the accuracy of a coin; a check that only looks at differences would call it robust."""
    report = check(noisy(linear, 1e6), digits, PLAN)
    assert verdicts(report)["there is something to defend"] != "pass"
    for row in report.rows:
        if row.noise == "on":
            assert abs(row.accuracy - 0.5) < 4 * (0.25 / 20 / row.n) ** 0.5
    always_right = rows(report)["clean", "noise on"].survival[40]
    assert always_right < 0.05


class Quantised(nn.Module):
    """Rounds pixels to a few levels first: the classifier is as weak as before, and its gradient is zero."""

    def __init__(self, net, levels=4):
        super().__init__()
        self.net, self.levels = net, levels

    def forward(self, x):
        return self.net((x * self.levels).round() / self.levels)


def test_a_masked_gradient_is_caught(linear, digits):
    report = check(Quantised(linear), digits, PLAN, sources={"unmasked": linear})
    found, judged = rows(report), verdicts(report)
    white, transfer = found["PGD-20", "noise off"], found["PGD-7 transfer", "unmasked"]
    assert transfer.accuracy < white.accuracy - 0.1, "the gradient is masked, so the figure flatters it"
    assert judged["black-box never beats white-box"] == "fail"
    assert judged["an unbounded attack reaches chance or below"] == "fail"
    assert not report.passed and any("black-box" in failure for failure in report.failures)


class Shattered(Quantised):
    """Points the gradient the wrong way: every step helps the network."""

    def forward(self, x):
        return self.net(2 * x.detach() - x)


def test_a_gradient_that_misleads_is_beaten_by_luck(linear, digits):
    weight = linear.conv.weight[1] - linear.conv.weight[0]
    close = Linear(weight.detach(), 2 * linear.conv.bias[1].item() - margins(linear, digits, 0).median().item())
    judged = verdicts(check(Shattered(close), digits, PLAN))
    assert judged["random search does not beat gradients"] == "fail"
    assert judged["a larger ε never helps the model"] == "fail"
    assert judged["an unbounded attack reaches chance or below"] == "fail"


class OwnNoise(nn.Module):
    """A user's network that draws by itself; one draw for the whole batch where ``shared``."""

    def __init__(self, net, deviation, shared=False):
        super().__init__()
        self.net, self.deviation, self.shared = net, deviation, shared

    def forward(self, x):
        logits = self.net(x)
        return logits + self.deviation * torch.randn_like(logits[:1] if self.shared else logits)


@pytest.mark.parametrize("shared", [False, True])
def test_noise_of_the_users_own(linear, digits, shared):
    report = check(OwnNoise(linear, 3.0, shared), digits, PLAN)
    assert report.noise_mode == "foreign" and any("random numbers" in remark for remark in report.remarks)
    found = rows(report)
    assert found["clean", "noise on"].draws == 20
    chances = 0.5 * (1 + torch.erf(margins(linear, digits, EPSILON) / 6))
    assert abs(found["EOT-PGD-7, 10 draws", "noise on"].accuracy - float(chances.mean())) < 0.05
    assert not [r for r in report.rows if r.crafted_on in ("noise off", "frozen noise")]


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
    assert [r.accuracy for r in first.rows] == [r.accuracy for r in second.rows]


def test_a_gain_over_a_rival(linear, digits):
    """A network held against one whose weights only look at a few pixels, and against itself."""
    brittle = Linear(20 * (linear.conv.weight[1] - linear.conv.weight[0]).sign() * 0.05, 0.0)
    better = check(linear, digits, PLAN, against=("brittle", brittle))
    assert verdicts(better)["it is more robust than brittle"] == "pass"
    worse = check(brittle, digits, PLAN, against=("fitted", linear))
    assert verdicts(worse)["it is more robust than fitted"] == "fail" and not worse.passed
    same = check(linear, digits, PLAN, against=("itself again", linear))
    assert verdicts(same)["it is more robust than itself again"] == "undecided"
    assert rows(same, "itself again")["PGD-20", "noise off"].accuracy == rows(same)["PGD-20", "noise off"].accuracy


def test_what_was_not_measured_is_undecided(linear, digits):
    report = check(linear, digits, CheckPlan(attacks=("fgsm",), epsilon=EPSILON, images=20))
    judged = verdicts(report)
    assert judged["one step never beats many"] == "undecided"
    assert all(c.detail == "Not measured." for c in report.criteria if c.name != "there is something to defend")
    assert report.passed
