"""RSE's first σ is in pixels, also behind a normalisation layer."""

import pytest
import torch
from torch import nn

import perturbify
from perturbify import Normalize, PerturbConfig

STD = (0.2, 0.25, 0.5)


class Image(nn.Module):
    """Gives back, as its second convolution's input, what its first one was given."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 3, 1, groups=3, bias=False) for _ in range(2))
        nn.init.ones_(self.first.weight)

    def forward(self, x):
        return self.second(self.first(x))


def wrapped(normalize, config="of the method", **how):
    return perturbify.wrap(
        Image(), config, method="rse", example_input=torch.rand(2, 3, 4, 4), normalize=normalize, **how
    )


@pytest.mark.parametrize("normalize", [None, Normalize((0.5, 0.4, 0.3), STD)])
def test_sigma_is_given_in_pixels(normalize):
    network = wrapped(normalize).eval()
    seen = []
    network.first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.rand(2000, 3, 4, 4)
    with torch.no_grad(), perturbify.noise(network, False):
        network(x)
    with torch.no_grad():
        network(x)
    scale = torch.tensor(STD if normalize else (1.0, 1.0, 1.0)).view(3, 1, 1)
    noise = (seen[1] - seen[0]) * scale
    assert noise.std((0, 2, 3)).tolist() == pytest.approx([0.2] * 3, rel=0.03)
    first, second = (p.theta for _, p in perturbify.perturbations(network))
    assert (second == 0.1).all()
    torch.testing.assert_close(first * scale, torch.full((3, 1, 1), 0.2))


def test_a_layers_sigma_is_its_channels_mean():
    settings = {"site": "input", "theta_init": 0.1, "theta_first": 0.3, "theta_min": None, "learnable": False}
    network = wrapped(Normalize((0.5, 0.4, 0.3), STD), PerturbConfig(grain="layer", **settings))
    thetas = [p.theta.flatten().tolist() for _, p in perturbify.perturbations(network)]
    assert thetas == [pytest.approx([0.3 * 3 / sum(STD)]), pytest.approx([0.1])]


def test_a_saved_file_keeps_sigma(tmp_path):
    network = wrapped(Normalize((0.5, 0.4, 0.3), STD))
    perturbify.save(network, tmp_path / "rse.safetensors")
    again = perturbify.load(tmp_path / "rse.safetensors", model=Image())
    for (_, ours), (_, theirs) in zip(perturbify.perturbations(network), perturbify.perturbations(again), strict=True):
        assert torch.equal(ours.theta, theirs.theta)
