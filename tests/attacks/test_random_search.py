"""Random points of the ball: as strong as they can be, and chosen without luck's help."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import perturbify
from perturbify.attacks import Pgd
from perturbify.attacks.random_search import RandomSearch


class Net(nn.Module):
    """Takes images of any size; fails at forward number ``fails_at``."""

    def __init__(self, channels=3, fails_at=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.forwards, self.fails_at = 0, fails_at

    def forward(self, x):
        self.forwards += 1
        if self.forwards == self.fails_at:
            raise FloatingPointError("in the middle")
        return self.head(self.norm(self.conv(x)).tanh().mean((2, 3)))


class Luck(nn.Module):
    """Logits that depend on nothing but luck: class 0 is right three times in four."""

    def forward(self, x):
        right = torch.rand(len(x), 1) < 0.75
        return torch.where(right, torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0]))


def batch(seed, size, shape=(3, 6, 6), dtype=torch.float32):
    """A third of the pixels black, a third white: there the ball and [0, 1] both bind."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, *shape, generator=generator, dtype=torch.float64)
    border = torch.randint(0, 3, x.shape, generator=generator)
    x = torch.where(border == 0, x, (border - 1).double()).to(dtype)
    return x, torch.randint(0, 5, (size,), generator=generator)


def length(images, x, norm):
    change = (images.double() - x.double()).flatten(1)
    return change.abs().amax(1) if norm == "linf" else change.norm(dim=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 3),
    shape=st.tuples(st.sampled_from([1, 3, 4]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    epsilon=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 8 / 255, 1.0])),
    tries=st.integers(1, 3),
    draws=st.integers(1, 2),
    norm=st.sampled_from(["linf", "l2"]),
)
def test_it_stays_inside(seed, size, shape, dtype, epsilon, tries, draws, norm):
    torch.manual_seed(seed)
    x, y = batch(seed, size, shape, dtype)
    before = x.clone()
    crafted = RandomSearch(epsilon, tries, draws, norm).craft(Net(shape[0]).to(dtype), x, y)
    assert crafted.images.shape == x.shape and crafted.images.dtype == x.dtype
    assert crafted.fooled.shape == y.shape and crafted.fooled.dtype == torch.bool
    assert not crafted.images.requires_grad
    assert ((crafted.images >= 0) & (crafted.images <= 1)).all()
    # Each value is rounded in the images' dtype.
    rounding = 2 * torch.finfo(dtype).eps * (1 if norm == "linf" else math.sqrt(x[0].numel()))
    assert (length(crafted.images, x, norm) <= epsilon + rounding).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_lie_on_the_edge_of_the_ball(norm):
    x, y = torch.full((3, 3, 6, 6), 0.5), torch.tensor([0, 1, 2])
    change = RandomSearch(0.1, 5, norm=norm).craft(Net(), x, y).images - x
    if norm == "linf":
        assert torch.allclose(change.abs(), torch.full_like(x, 0.1), atol=1e-6)
        assert 0.3 < (change > 0).float().mean() < 0.7
    else:
        assert torch.allclose(change.flatten(1).norm(dim=1), torch.tensor(0.1), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_image_keeps_its_worst_try(norm):
    torch.manual_seed(0)
    net = Net().eval()
    x, y = batch(0, 6)
    tried = []
    hook = net.register_forward_hook(lambda _, inputs, logits: tried.append((inputs[0], logits)))
    crafted = RandomSearch(0.2, 20, norm=norm).craft(net, x, y)
    hook.remove()
    images, logits = (torch.stack(all_tries) for all_tries in zip(*tried[:-1], strict=True))
    assert len(images) == 20
    true = torch.nn.functional.one_hot(y, 5).bool()
    margin = logits.masked_fill(true, -torch.inf).amax(2) - logits[:, true]
    worst = margin.argmax(0)
    assert torch.equal(crafted.images, images[worst, torch.arange(6)])
    assert len(worst.unique()) > 2
    assert torch.equal(crafted.fooled, net(crafted.images).argmax(1) != y)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_tries_help_and_gradients_help_more(norm):
    """The criterion itself, where it has to hold: on a plain network."""
    torch.manual_seed(0)
    net = Net().eval()
    x, y = batch(0, 40)
    epsilon = 0.05 if norm == "linf" else 0.3

    def margin(images):
        with torch.no_grad():
            logits = net(images)
        true = torch.nn.functional.one_hot(y, 5).bool()
        return (logits.masked_fill(true, -torch.inf).amax(1) - logits[true]).mean().item()

    few, many = (margin(RandomSearch(epsilon, tries, norm=norm).craft(net, x, y).images) for tries in (1, 50))
    by_gradient = margin(Pgd(epsilon, epsilon / 4, 10, norm=norm).craft(net, x, y).images)
    assert few < many < by_gradient


def test_a_saturated_loss_does_not_stop_the_search():
    """Where the cross-entropy is exactly zero, the margin still tells points apart."""

    class Sure(nn.Module):
        def forward(self, x):
            return torch.stack([1000 + x.mean((1, 2, 3)), torch.zeros(len(x))], 1)

    net, x, y = Sure(), torch.full((20, 1, 4, 4), 0.5), torch.zeros(20).long()
    assert (torch.nn.functional.cross_entropy(net(x), y, reduction="none") == 0).all()
    torch.manual_seed(0)
    images = RandomSearch(0.1, 50).craft(net, x, y).images
    assert (images.mean((1, 2, 3)) < 0.47).all()


def test_a_constant_network_still_gets_perturbed_images():
    class Deaf(nn.Module):
        def forward(self, x):
            return torch.tensor([9.0, 0.0]).expand(len(x), 2)

    x = torch.full((4, 3, 5, 5), 0.5)
    images = RandomSearch(8 / 255, 3).craft(Deaf(), x, torch.zeros(4).long()).images
    assert (length(images, x, "linf") > 7 / 255).all()


@pytest.mark.parametrize("draws", [1, 4])
def test_luck_does_not_win(draws):
    """No point helps; an attack that returned what one draw liked would claim 100%."""
    torch.manual_seed(0)
    n, net = 2000, Luck()
    crafted = RandomSearch(8 / 255, 20, draws).craft(net, torch.rand(n, 1, 2, 2), torch.zeros(n).long())
    interval = 4 * (0.75 * 0.25 / n) ** 0.5
    assert abs(crafted.fooled.float().mean().item() - 0.25) < interval
    fresh = torch.stack([net(crafted.images).argmax(1) == 0 for _ in range(5)]).float().mean().item()
    assert abs(fresh - 0.75) < interval / 5**0.5


def test_repeated_draws_separate_real_gains_from_luck():
    """Brightness decides, under noise ten times as large as what it can do in the ball."""

    class Dim(nn.Module):
        def forward(self, x):
            bright = (x.mean((1, 2, 3)) - 0.5) * 10
            return torch.stack([bright + torch.randn(len(x)) * 3, torch.zeros(len(x))], 1)

    def brightness(draws):
        torch.manual_seed(0)
        x = torch.full((200, 1, 4, 4), 0.5)
        return RandomSearch(0.1, 30, draws).craft(Dim(), x, torch.zeros(200).long()).images.mean().item() - 0.5

    assert brightness(100) < 2 * brightness(1) < 0


@pytest.mark.parametrize("noisy", [False, True], ids=["still", "noisy"])
def test_the_same_seed_gives_the_same_images(noisy):
    x, y = batch(0, 3)
    net = perturbify.wrap(Net(), example_input=x) if noisy else Net()

    def crafted(seed):
        torch.manual_seed(seed)
        return RandomSearch(tries=5).craft(net, x, y).images

    assert torch.equal(crafted(1), crafted(1))
    assert not torch.equal(crafted(1), crafted(2))


@pytest.mark.parametrize("fails_at", [None, 1, 3, 7])
def test_nothing_of_the_network_changes(fails_at):
    x, y = batch(0, 3)
    net = Net(fails_at=fails_at)
    net.train()
    net.conv.eval()
    net.head.bias.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)

    def state():
        return (
            [m.training for m in net.modules()],
            [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in net.parameters()],
            {name: tensor.tolist() for name, tensor in net.state_dict().items()},
        )

    before = state()
    if fails_at is None:
        RandomSearch(tries=3, draws=2).craft(net, x, y)
    else:
        with pytest.raises(FloatingPointError, match="in the middle"):
            RandomSearch(tries=3, draws=2).craft(net, x, y)
    assert state() == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("attack", [RandomSearch(tries=3), RandomSearch(tries=2, draws=4, norm="l2")], ids=repr)
def test_the_stated_cost_is_the_actual_cost(attack):
    x, y = batch(0, 3)
    net = Net()
    attack.craft(net, x, y)
    assert net.forwards == attack.passes.forward
    assert attack.passes.gradient == 0


@pytest.mark.parametrize(
    "wrong",
    [{"norm": "l0"}, {"epsilon": -0.1}, {"epsilon": 1.5}, {"epsilon": math.nan}, {"tries": 0}, {"draws": 0}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RandomSearch(**wrong)


def test_an_l2_radius_may_exceed_one():
    assert RandomSearch(3.0, norm="l2").epsilon == 3.0
