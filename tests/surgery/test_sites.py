"""Which calls become sites, what they are called, and what shape their θ has."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import perturbify
from perturbify import PerturbConfig
from perturbify.errors import SurgeryError

X = torch.rand(2, 3, 8, 8)


def sites(network, example=X, **settings):
    plan = perturbify.plan(network, PerturbConfig(**settings), example_input=example)
    wrapped = perturbify.wrap(network, PerturbConfig(**settings), example_input=example)
    assert wrapped.surgery.plan == plan
    assert {n: p.theta.shape for n, p in perturbify.perturbations(wrapped)} == {
        s.name: s.theta_shape for s in plan.sites
    }
    return {s.name: s.theta_shape for s in plan.sites}


@pytest.mark.parametrize(
    ("convolution", "shape", "theta"),
    [
        (nn.Conv1d(3, 5, 3), (2, 3, 9), (5, 7)),
        (nn.Conv2d(3, 5, 3, padding="same", padding_mode="reflect"), (2, 3, 8, 6), (5, 8, 6)),
        (nn.Conv3d(3, 5, 3, stride=2), (2, 3, 5, 7, 9), (5, 2, 3, 4)),
        (nn.ConvTranspose1d(3, 5, 2, stride=2), (2, 3, 4), (5, 8)),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (2, 3, 4, 4), (5, 8, 8)),
        (nn.ConvTranspose3d(3, 5, 2), (2, 3, 2, 2, 2), (5, 3, 3, 3)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_theta_shapes_of_every_grain_and_convolution(convolution, shape, theta):
    network, x = nn.Sequential(convolution, nn.ReLU()), torch.rand(shape)
    spatial = (1,) * (len(theta) - 1)
    assert sites(network, x) == {"0": theta}
    assert sites(network, x, grain="channel") == {"0": (theta[0], *spatial)}
    assert sites(network, x, grain="layer") == {"0": (1, *spatial)}
    wrapped = perturbify.wrap(network, example_input=x)
    with perturbify.noise(wrapped, enabled=False):
        assert torch.equal(wrapped(x), network(x))
        assert torch.equal(wrapped(x[0]), network(x[0]))
    assert wrapped(x[0]).shape == theta


def test_an_example_without_a_batch_dimension():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    wrapped = perturbify.wrap(network, example_input=X[0])
    assert wrapped.surgery.plan.sites[0].theta_shape == (4, 6, 6)
    assert wrapped(X[0]).shape == (4, 6, 6)


class Repeated(nn.Module):
    def __init__(self, pool=True):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 3, 3, padding=1), pool

    def forward(self, x):
        x = self.conv(x)
        if self.pool:
            x = F.max_pool2d(x, 2)
        return self.conv(self.conv(x))


def test_a_convolution_called_three_times_has_three_thetas():
    expected = {"conv": (3, 8, 8), "conv#1": (3, 4, 4), "conv#2": (3, 4, 4)}
    assert sites(Repeated()) == expected
    keys = perturbify.wrap(Repeated(), example_input=X).state_dict()
    assert {k for k in keys if "theta" in k} == {
        "conv.perturb.theta",
        "conv.perturb_1.theta",
        "conv.perturb_2.theta",
    }


def test_one_theta_for_all_calls_of_a_module():
    assert sites(Repeated(pool=False), theta_per="module") == {"conv": (3, 8, 8)}
    plan = perturbify.plan(Repeated(pool=False), PerturbConfig(theta_per="module"), example_input=X)
    assert plan.sites[0].calls == 3
    assert sites(Repeated(), theta_per="module", grain="channel") == {"conv": (3, 1, 1)}
    with pytest.raises(SurgeryError, match="conv is called with feature maps of 3×8×8 and of 3×4×4"):
        perturbify.wrap(Repeated(), PerturbConfig(theta_per="module"), example_input=X)


def test_repeated_calls_draw_independently():
    wrapped = perturbify.wrap(Repeated(pool=False), PerturbConfig(theta_per="module"), example_input=X)
    drawn = []
    wrapped.conv.perturb.register_forward_hook(lambda _m, i, o: drawn.append(o - i[0]))
    wrapped(X)
    assert len(drawn) == 3
    assert not torch.allclose(drawn[1], drawn[2])


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.register_buffer("blur", torch.ones(4, 1, 3, 3) / 9)
        self.make_filter = nn.Linear(4, 16)

    def forward(self, x):
        x = F.conv2d(x, self.weight / self.weight.norm(), padding=1)
        x = F.conv2d(x, weight=self.blur, groups=4, padding=1)
        return F.conv2d(x, self.make_filter(x.mean((0, 2, 3))).view(4, 4, 1, 1))


def test_functional_convolutions_with_learned_filters_are_sites():
    assert sites(Functional()) == {"(root)": (4, 8, 8), "(root)#2": (4, 8, 8)}
    plan = perturbify.plan(Functional(), example_input=X)
    assert [(s.name, s.kind, s.reason) for s in plan.skipped] == [
        ("(root)#1", "conv2d", "fixed filter, nothing learned")
    ]
    assert {"perturb.theta", "perturb_2.theta"} <= set(perturbify.wrap(Functional(), example_input=X).state_dict())


def nested():
    block = lambda: nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1))  # noqa: E731
    return nn.Sequential(block(), block())


def test_globs_choose_the_sites():
    assert list(sites(nested())) == ["0.0", "0.2", "1.0", "1.2"]
    assert list(sites(nested(), include=("1.*",))) == ["1.0", "1.2"]
    assert list(sites(nested(), exclude=("*.2",))) == ["0.0", "1.0"]
    assert list(sites(nested(), include=("1.*", "0.0"), exclude=("1.2",))) == ["0.0", "1.0"]
    plan = perturbify.plan(nested(), PerturbConfig(include=("1.*",), exclude=("1.2",)), example_input=X)
    assert {s.name: s.reason for s in plan.skipped} == {
        "0.0": "not in include",
        "0.2": "not in include",
        "1.2": "in exclude",
    }


def test_without_a_config_nothing_is_perturbed():
    wrapped = perturbify.wrap(nested(), None, example_input=X)
    assert list(perturbify.perturbations(wrapped)) == []
    assert torch.equal(wrapped(X), wrapped(X))


def test_settings_reach_the_modules():
    wrapped = perturbify.wrap(
        nested().double(), PerturbConfig(theta_init=0.5, theta_min=0.1, draw_per="batch"), example_input=X.double()
    )
    for _, perturbation in perturbify.perturbations(wrapped):
        assert (perturbation.theta == 0.5).all()
        assert perturbation.theta.dtype == torch.float64
        assert (perturbation.theta_min, perturbation.draw_per) == (0.1, "batch")


def test_draws_are_per_image_or_per_batch():
    same = X[:1].expand(4, -1, -1, -1)
    for draw_per, equal in (("sample", False), ("batch", True)):
        wrapped = perturbify.wrap(nested(), PerturbConfig(draw_per=draw_per), example_input=X)
        out = wrapped(same)
        assert torch.allclose(out[0], out[3]) is equal


@pytest.mark.parametrize(
    "settings",
    [
        {"grain": "pixel"},
        {"draw_per": "image"},
        {"theta_per": "never"},
        {"theta_min": 0.0},
        {"theta_min": float("nan")},
        {"theta_init": 0.001},
        {"theta_init": float("inf")},
        {"include": "layer1.*"},
        {"exclude": ["layer1.*"]},
    ],
    ids=str,
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PerturbConfig(**settings)


def test_the_plan_prints_and_becomes_json_values():
    plan = perturbify.plan(Functional(), example_input=X)
    assert "2 sites, 512 entries of θ, 1 skipped" in str(plan)
    assert plan.to_dict()["theta_parameters"] == plan.parameters == 512


def test_thetas_gradient_agrees_with_finite_differences():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.Tanh(), nn.Conv2d(2, 2, 2), nn.Flatten()).double()
    x = X.double()
    for grain in ("element", "channel", "layer"):
        for draw_per in ("sample", "batch"):
            wrapped = perturbify.wrap(network, PerturbConfig(grain=grain, draw_per=draw_per), example_input=x)

            def loss(model=wrapped):
                torch.manual_seed(1)
                return model(x).square().sum()

            for _, perturbation in perturbify.perturbations(wrapped):
                theta = perturbation.theta
                (gradient,) = torch.autograd.grad(loss(), theta)
                for i in (0, theta.numel() - 1):
                    with torch.no_grad():
                        theta.view(-1)[i] += 1e-6
                        up = loss()
                        theta.view(-1)[i] -= 2e-6
                        down = loss()
                        theta.view(-1)[i] += 1e-6
                    torch.testing.assert_close(gradient.view(-1)[i], (up - down) / 2e-6, rtol=1e-5, atol=1e-6)


def test_a_large_theta_is_reported_but_not_changed():
    network = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1)).to("meta")
    large = perturbify.plan(network, example_input=torch.rand(2, 3, 900, 900, device="meta"))
    assert large.config.grain == "element"
    assert large.sites[0].theta_shape == (64, 900, 900)
    assert "note: θ per element has 52 M entries here (0.2 GiB in float32)" in str(large)
    assert 'grain="channel" has 64 and takes any size' in large.advice
    assert perturbify.plan(nn.Conv2d(3, 4, 3), example_input=X).advice == ""
