"""Few pixels, the right ones, and not by luck."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import real
from torch import nn

import perturbify
from perturbify.attacks import few_pixel
from perturbify.attacks.few_pixel import FewPixel


class Net(nn.Module):
    """Takes images of any size; fails at forward number ``fails_at``."""

    def __init__(self, channels=3, fails_at=None):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.forwards, self.images, self.fails_at = 0, 0, fails_at

    def forward(self, x):
        self.forwards += 1
        self.images += len(x)
        if self.forwards == self.fails_at:
            raise FloatingPointError("in the middle")
        return self.head(self.norm(self.conv(x)).tanh().mean((2, 3)))


class Linear(nn.Module):
    """Two classes; the logit of class 0 is a weighted sum of the values, about grey."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x):
        score = ((x - 0.5) * self.weight).sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


class Luck(nn.Module):
    """Logits that depend on nothing but luck: class 0 is right three times in four."""

    def forward(self, x):
        right = torch.rand(len(x), 1) < 0.75
        return torch.where(right, torch.tensor([4.0, 0.0]), torch.tensor([0.0, 4.0]))


def batch(seed, size, shape=(3, 6, 6), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 5, (size,), generator=generator)


def changed_pixels(images, x):
    return (images != x).any(1).flatten(1).sum(1)


def small(**settings):
    return FewPixel(**{"population": 5, "generations": 2, **settings})


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 3),
    shape=st.tuples(st.sampled_from([1, 3, 4]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    pixels=st.integers(1, 4),
    population=st.integers(4, 9),
    generations=st.integers(0, 3),
    draws=st.integers(1, 2),
)
def test_pixel_count_and_pixel_range_are_respected(seed, size, shape, dtype, pixels, population, generations, draws):
    torch.manual_seed(seed)
    x, y = batch(seed, size, shape, dtype)
    before = x.clone()
    crafted = FewPixel(pixels, population, generations, draws).craft(Net(shape[0]).to(dtype), x, y)
    assert crafted.images.shape == x.shape and crafted.images.dtype == x.dtype
    assert crafted.fooled.shape == y.shape and crafted.fooled.dtype == torch.bool
    assert not crafted.images.requires_grad
    assert ((crafted.images >= 0) & (crafted.images <= 1)).all()
    assert (changed_pixels(crafted.images, x) <= pixels).all()
    assert torch.equal(x, before)


def test_first_population_has_uniform_pixels_and_normal_colours():
    torch.manual_seed(0)
    x = torch.full((1, 3, 4, 6), 0.5)
    first = few_pixel._first(x, 24_000, 1)
    changed = (few_pixel._paint(x.expand(24_000, -1, -1, -1), first[0]) != 0.5).any(1).sum(0)
    expected = 24_000 / 24
    assert ((changed - expected).square() / expected).sum() < 53  # χ², 23 degrees of freedom, p = 0.0004
    colour = first[..., 2:]
    assert abs(colour.mean() - 0.5) < 0.01
    assert abs((colour == 1).double().mean() - 0.1587) < 0.01  # beyond one standard deviation


@pytest.mark.parametrize("population", [4, 5, 30])
def test_a_child_has_three_distinct_other_parents(population):
    torch.manual_seed(0)
    others = few_pixel._three_others(torch.empty(500, population))
    four = torch.stack([torch.arange(population).expand(500, -1), *others])
    assert (four.sort(0).values.diff(dim=0) > 0).all()
    # Of the first member each other one is as often a parent: counts within five standard errors.
    share = 1 / (population - 1)
    counts = torch.stack([torch.bincount(parent[:, 0], minlength=population)[1:] for parent in others])
    assert ((counts - 500 * share).abs() < 5 * (500 * share * (1 - share)) ** 0.5).all()


@pytest.mark.parametrize("noisy", [False, True], ids=["still", "noisy"])
def test_the_same_seed_gives_the_same_images(noisy):
    x, y = batch(0, 3)
    net = perturbify.wrap(Net(), example_input=x) if noisy else Net()

    def crafted(seed):
        torch.manual_seed(seed)
        return small(pixels=2).craft(net, x, y).images

    assert torch.equal(crafted(1), crafted(1))
    assert not torch.equal(crafted(1), crafted(2))


@pytest.mark.parametrize("fails_at", [None, 1, 3, 30])
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
        small().craft(net, x, y)
    else:
        with pytest.raises(FloatingPointError, match="in the middle"):
            small(draws=10).craft(net, x, y)
    assert state() == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "attack", [small(), small(draws=3), FewPixel(2, 20, 0), FewPixel(1, 20, 1, draws=12)], ids=repr
)
def test_the_stated_cost_is_the_actual_cost(attack):
    x, y = batch(0, 3)
    net = Net()
    attack.craft(net, x, y)
    assert net.images == attack.passes.forward * len(x)
    assert attack.passes.gradient == 0


def test_forwards_stay_small_and_mix_images(monkeypatch):
    monkeypatch.setattr(few_pixel, "CANDIDATES_PER_FORWARD", 7)
    sizes = []
    net = Net()
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    x, y = batch(0, 3)
    torch.manual_seed(0)
    in_parts = small().craft(net, x, y).images
    assert sizes[:3] == [7, 7, 1] and max(sizes) == 7
    monkeypatch.setattr(few_pixel, "CANDIDATES_PER_FORWARD", 512)
    torch.manual_seed(0)
    assert torch.equal(small().craft(net, x, y).images, in_parts)


def test_every_draw_is_a_separate_forward_pass():
    x, y = batch(0, 2)
    net = Net()
    small(generations=0, draws=11).craft(net, x, y)
    assert net.forwards == 11 + 11 + 1


def test_it_finds_the_decisive_pixel_of_each_image():
    """The best pixel and colour are known exactly, and differ from image to image."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 7, 5, generator=generator) * 0.1
    weight[:, 4, 3] = torch.tensor([3.0, -2.0, 2.5])
    x = 0.3 + 0.4 * torch.rand(6, 3, 7, 5, generator=generator)
    x[3:, :, 4, 3] = (weight[:, 4, 3] < 0).float()  # as bad as can be already: there the second best pixel counts
    best = torch.where(weight > 0, 0.0, 1.0)
    gains = ((x - best) * weight).sum(1)  # how far each pixel alone can lower the score
    net = Linear(weight)
    y = torch.zeros(6, dtype=torch.long)
    torch.manual_seed(0)
    images = FewPixel(1, population=60, generations=100).craft(net, x, y).images
    reached = (net(x)[:, 0] - net(images)[:, 0]) / gains.flatten(1).amax(1)
    assert (reached < 1 + 1e-5).all()
    assert (reached[:3] > 0.95).all()
    assert (reached[3:] > 0.9).all()  # many pixels are nearly as good
    assert (changed_pixels(images, x) == 1).all()
    found = (images != x).any(1).flatten(1).int().argmax(1)
    assert (found[:3] == 4 * 5 + 3).all()


def test_two_pixels_find_two():
    weight = torch.full((1, 4, 4), 0.05)
    weight[0, 1, 2], weight[0, 3, 0] = 3.0, -3.0
    x = torch.full((2, 1, 4, 4), 0.5)
    torch.manual_seed(0)
    images = FewPixel(2, population=150, generations=100).craft(Linear(weight), x, torch.zeros(2).long()).images
    assert (images[:, 0, 1, 2] < 0.1).all() and (images[:, 0, 3, 0] > 0.9).all()


def test_a_saturated_softmax_does_not_stop_the_search():
    """Where the probability of the true class is 1 to single precision, the search goes on."""
    weight = torch.zeros(1, 6, 6)
    weight[0, 2, 2] = 8.0
    x = torch.full((2, 1, 6, 6), 0.5)

    class Sure(Linear):
        def forward(self, x):
            return super().forward(x) + torch.tensor([40.0, 0.0])

    net = Sure(weight)
    assert (net(x).softmax(1)[:, 0] == 1).all()
    torch.manual_seed(0)
    images = FewPixel(1, population=60, generations=40).craft(net, x, torch.zeros(2).long()).images
    assert (images[:, 0, 2, 2] < 0.05).all()


def test_luck_does_not_win():
    """No candidate helps; an attack that returned what one draw liked would claim 100%."""
    torch.manual_seed(0)
    n, net = 300, Luck()
    crafted = FewPixel(1, population=20, generations=5).craft(net, torch.rand(n, 1, 2, 2), torch.zeros(n).long())
    interval = 4 * (0.75 * 0.25 / n) ** 0.5
    assert abs(crafted.fooled.float().mean().item() - 0.25) < interval
    fresh = torch.stack([net(crafted.images).argmax(1) == 0 for _ in range(20)]).float().mean().item()
    assert abs(fresh - 0.75) < 4 * (0.75 * 0.25 / n / 20) ** 0.5


class Tempting(nn.Module):
    """A dark pixel (0, 0) fools it always, everywhere else one draw in three does."""

    def forward(self, x):
        fooled = (x[:, 0, 0, 0] < 0.2) | (torch.rand(len(x)) < 1 / 3)
        return torch.where(fooled[:, None], torch.tensor([0.0, 4.0]), torch.tensor([4.0, 0.0]))


def test_real_gains_are_told_apart_from_luck(monkeypatch):
    """By one draw a third of a population has the best record there can be; drawing anew tells them apart."""

    def helped():
        torch.manual_seed(0)
        x = torch.full((100, 1, 3, 3), 0.9)
        crafted = FewPixel(1, population=40, generations=0).craft(Tempting(), x, torch.zeros(100).long())
        return (crafted.images[:, 0, 0, 0] < 0.2).float().mean().item()

    anew = helped()
    monkeypatch.setattr(few_pixel, "FINALISTS", 1)
    assert helped() < 0.25 < 0.5 < anew


def test_batching_does_not_change_the_attack():
    torch.manual_seed(1)
    net = Net().eval()
    net.head.weight.data.mul_(10)
    x, y = batch(3, 1)
    attack = FewPixel(1, population=8, generations=4)

    def errors(images):
        with torch.no_grad():
            return 1 - net(images).softmax(1)[:, y[0]].double()

    torch.manual_seed(0)
    together = errors(attack.craft(net, x.expand(300, -1, -1, -1), y.expand(300)).images)
    alone = errors(torch.cat([attack.craft(net, x, y).images for _ in range(40)]))
    assert together.std() > 0
    spread = (together.var() / 300 + alone.var() / 40) ** 0.5
    assert abs(together.mean() - alone.mean()) < 4 * spread


def test_a_network_of_nan_has_no_right_answer():
    class Nan(nn.Module):
        """NaN where the first pixel is dark."""

        def forward(self, x):
            logits = torch.tensor([[3.0, 0.0]]).expand(len(x), 2)
            return torch.where(x[:, :1, 0, 0] < 0.2, torch.nan, logits)

    torch.manual_seed(0)
    images = FewPixel(1, 40, 10).craft(Nan(), torch.full((3, 1, 2, 2), 0.9), torch.zeros(3).long()).images
    assert (images[:, 0, 0, 0] < 0.2).all()


@pytest.mark.parametrize("wrong", [{"pixels": 0}, {"population": 3}, {"generations": -1}, {"draws": 0}], ids=str)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FewPixel(**wrong)


def test_epsilon_counts_pixels():
    assert FewPixel(3).norm == "l0" and FewPixel(3).epsilon == 3.0
    assert FewPixel() == FewPixel(pixels=1, population=400, generations=100, draws=1)  # as in the paper


@real.needed
@pytest.mark.parametrize(
    ("network", "n"), [("cnn_a_adv4", 32), pytest.param("resnet20", 16, marks=pytest.mark.slow)], ids=str
)
def test_evolution_beats_as_many_random_pixels(network, n):
    """On the images a real network is right about and least sure of."""
    x, y = real.images(256)
    net = real.network(network)

    def probability(x, y):
        with torch.no_grad():
            probabilities = net(x).softmax(1)
        return probabilities.gather(1, y[:, None])[:, 0], probabilities.argmax(1) == y

    sure, right = probability(x, y)
    chosen = torch.where(right, sure, torch.inf).topk(n, largest=False).indices
    x, y = x[chosen], y[chosen]
    evolved, at_random = FewPixel(1, population=20, generations=19), FewPixel(1, population=400, generations=0)
    assert evolved.passes == at_random.passes
    torch.manual_seed(0)
    by_evolution, evolution_right = probability(evolved.craft(net, x, y).images, y)
    by_chance, chance_right = probability(at_random.craft(net, x, y).images, y)
    assert by_evolution.mean() < by_chance.mean() < sure[chosen].mean()
    assert evolution_right.sum() <= chance_right.sum() and evolution_right.sum() <= 0.9 * n
