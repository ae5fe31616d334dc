"""Answers that depend on what they must not depend on are found; honest noise is not accused."""

import pytest
import torch
from networks import masks, real
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.checks.answers import AGAIN, answers, distinct
from perturbify.checks.evaluate import seed_of
from perturbify.checks.probe import Asked, ask

WATCHED, COMPANY = "answers do not depend on whether gradients are computed", "answers do not depend on the batch"
MEMORY, JUMPS = "answers do not depend on earlier queries", "answers do not change with a pixel's last bit"


def seeds(what, n):
    return [seed_of(0, what, i) for i in range(n)]


def asked(net, deterministic=True, images=None):
    x, y = images or masks.digits()
    return {c.name: c for c in answers(net, x[:16], y[:16], seeds, deterministic=deterministic)}


def failing(net, deterministic=True):
    found = asked(net, deterministic)
    assert {c.outcome for c in found.values()} <= {"pass", "fail"} and all(c.core for c in found.values())
    return {name for name, c in found.items() if c.outcome == "fail"}


def noisy(method="learn2perturb", **config):
    torch.manual_seed(0)
    x, _ = masks.digits()
    settings = PerturbConfig(**config) if config else None
    return perturbify.wrap(masks.honest(), settings, method=method, example_input=x[:2])


class InBatchNorm(nn.Module):
    """Batch-norm in eval mode, which is not the batch's."""

    def __init__(self):
        super().__init__()
        self.norm, self.net = nn.BatchNorm2d(3), masks.honest()

    def forward(self, x):
        return self.net(self.norm(x))


HONEST = {
    "plain": masks.honest,
    "cold": lambda: masks.cold(masks.honest()),
    "batch-norm": InBatchNorm,
    "rounded": lambda: masks.rounded(masks.honest(), 7.3),
    "noise": lambda: noisy(theta_init=0.3),
    "noise for a batch": lambda: noisy(theta_init=0.3, draw_per="batch"),
    "noise on weights": lambda: noisy("pni"),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_networks_pass(name):
    found = asked(HONEST[name]())
    assert {c.outcome for c in found.values()} == {"pass"} and len(found) == 4


@real.needed
def test_a_real_network_passes():
    found = asked(real.network("cnn_a_adv4"), images=real.images(16))
    assert {c.outcome for c in found.values()} == {"pass"}


class Shared(nn.Module):
    """Noise of its own, one draw for all images of a forward."""

    def __init__(self):
        super().__init__()
        self.net = masks.honest()

    def forward(self, x):
        return self.net(x) + torch.randn(1, 10)


FOREIGN = {
    "noise": lambda: masks.noise_of_its_own(masks.honest()),
    "on pixels": lambda: masks.Mask(masks.honest(), lambda x: masks.loud(x, 0.2)),
    "shared": Shared,
    "dropout": lambda: masks.Mask(masks.honest(), lambda x: nn.functional.dropout(x, 0.2)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_honest_noise_of_its_own_passes(name):
    assert failing(FOREIGN[name](), deterministic=False) == set()


def test_noise_that_disappears_under_gradients():
    """To a look without gradients the network is deterministic."""
    assert WATCHED in failing(masks.noise_where_watched(masks.honest()))


def test_outputs_that_change_under_gradients():
    assert WATCHED in failing(masks.Mask(masks.honest(), after=lambda z, x: z.roll(1, 1) if x.requires_grad else z))


def test_outputs_that_depend_on_the_batch_size():
    assert failing(masks.by_the_size_of_the_batch(masks.honest())) == {COMPANY}


def test_outputs_that_depend_on_batch_position():
    def turned(z, x):
        return torch.cat([z[:1].roll(1, 1), z[1:]])

    assert failing(masks.Mask(masks.honest(), after=turned)) == {COMPANY}


def test_outputs_that_depend_on_other_images():
    assert failing(masks.Mask(masks.honest(), lambda x: x - x.mean(0, keepdim=True))) == {COMPANY}


def test_a_random_backward_of_a_deterministic_network():
    found = asked(masks.backward(masks.honest(), torch.randn_like))[COMPANY]
    assert found.outcome == "fail"
    assert {e.statement for e in found.evidence if e.outcome == "fail"} >= {
        "images whose gradient changes when asked again"
    }


@pytest.mark.parametrize("kind", [masks.Remembering, masks.Tired])
def test_outputs_that_depend_on_earlier_queries(kind):
    assert MEMORY in failing(kind(masks.honest()))


def test_noise_derived_from_the_image():
    assert failing(masks.noise_from_the_image(masks.honest(), 0.2)) == {JUMPS}


class Kinds:
    """Networks that draw by themselves, and otherwise than they should."""

    @staticmethod
    def watched():
        return masks.Mask(masks.honest(), after=lambda z, x: masks.loud(z, 5.0 if x.requires_grad else 0.2))

    @staticmethod
    def alone():
        return masks.Mask(masks.honest(), after=lambda z, x: masks.loud(z if len(x) > 1 else z.roll(1, 1), 0.2))

    @staticmethod
    def tired():
        return masks.Tired(masks.noise_of_its_own(masks.honest(), 0.2), after=40 + 320)

    @staticmethod
    def nan():
        return masks.Mask(
            masks.honest(), after=lambda z, x: masks.loud(z, 0.2) * (float("nan") if x.requires_grad else 1.0)
        )


@pytest.mark.parametrize(
    ("kind", "name"), [("watched", WATCHED), ("alone", COMPANY), ("tired", MEMORY), ("nan", WATCHED)]
)
def test_custom_noise_that_depends_on_more_than_chance(kind, name):
    assert name in failing(getattr(Kinds, kind)(), deterministic=False)


def by_chance(draw, pairs):
    """How many of so many pairs of samples of one distribution are called distinct."""
    generator = torch.Generator().manual_seed(0)
    return sum(distinct(*(Asked(draw(generator) + torch.arange(16.0)) for _ in range(2))) for _ in range(pairs))


def own(generator):
    return torch.randn(20, 16, generator=generator)


def shared(generator):
    return torch.randn(20, 1, generator=generator)


def one_of_ten(generator):
    """A draw for all images, which in one case of ten is another network's."""
    return 5 * (torch.rand(20, 1, generator=generator) < 0.1) + 0.1 * own(generator)


def test_chance_never_makes_two_samples_look_distinct():
    assert by_chance(own, 1000) == 0


@pytest.mark.parametrize(("draw", "most"), [(shared, 0.01), (one_of_ten, 0.3)])
def test_chance_rarely_makes_pairs_look_distinct(draw, most):
    """A check asks AGAIN times, and only where all of the pairs are distinct it says so."""
    assert by_chance(draw, 2000) / 2000 <= most
    assert most**AGAIN < 0.01


def test_samples_that_are_distinct():
    generator = torch.Generator().manual_seed(0)
    base, other = (torch.randn(20, 16, generator=generator) for _ in range(2))
    assert distinct(Asked(base), Asked(other + 3)), "another mean"
    assert distinct(Asked(base), Asked(5 * other)), "another spread"
    assert distinct(Asked(base), Asked(other.where(other > 0, torch.tensor(-torch.inf)))), "answers that are none"
    assert not distinct(Asked(base), Asked(base))


def test_the_same_seeds_give_the_same_draws():
    net, (x, y) = masks.noise_of_its_own(masks.honest()), masks.digits()
    first, again, other = (ask(net, x[:4], y[:4], s).margins for s in ([1, 2], [1, 2], [3, 4]))
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (2, 4)


def test_asking_for_a_gradient():
    net, (x, y) = masks.honest(), masks.digits()
    found = ask(net, x[:4], y[:4], [0], gradient=True)
    leaf = x[:4].clone().requires_grad_(True)
    logits = net(leaf)
    others = logits.scatter(1, y[:4, None], -torch.inf).amax(1)
    margins = logits.gather(1, y[:4, None])[:, 0] - others
    assert torch.allclose(found.margins[0], margins.detach(), atol=1e-5)
    assert torch.allclose(found.gradient, torch.autograd.grad(margins.sum(), leaf)[0], atol=1e-5)
    entropy = torch.autograd.grad(nn.functional.cross_entropy(net(leaf), y[:4], reduction="sum"), leaf)[0]
    assert torch.allclose(found.entropy, entropy, atol=1e-5) and found.given
    hidden = ask(masks.detached(net), x[:4], y[:4], [0], gradient=True)
    assert not hidden.given and not hidden.gradient.any() and not hidden.entropy.any()
