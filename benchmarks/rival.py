"""The baseline of our benchmarks: a careful hand-written version of the paper's training step, in eager fp32.

Noise is a module behind each convolution, ``y + theta * randn_like(y)``; the attack's backward passes compute the
gradients of all parameters and discard them; one optimiser for the weights and one for θ take a joint step, as in the
authors' release. Written by us, without code from the release.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

EPSILON, STEP, STEPS = 8 / 255, 0.01, 7


class NoisyConvolution(nn.Module):
    """A convolution with noise behind it."""

    def __init__(self, convolution: nn.Module, shape: torch.Size) -> None:
        super().__init__()
        self.convolution = convolution
        self.theta = nn.Parameter(torch.full(tuple(shape), 0.25))
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """The convolution's output, perturbed."""
        y = self.convolution(x)
        return y + self.theta * torch.randn_like(y) if self.enabled else y


def with_noise(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a network with noise behind its convolutions, each of which is called once."""
    noisy = copy.deepcopy(model)
    shapes: dict[str, torch.Size] = {}
    convolutions = [(n, m) for n, m in noisy.named_modules() if isinstance(m, nn.Conv2d)]

    def note(name: str, _module: nn.Module, _inputs: object, y: Tensor) -> None:
        shapes[name] = y.shape[1:]

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in convolutions]
    with torch.no_grad():
        noisy(x)
    for hook in hooks:
        hook.remove()
    for name, module in convolutions:
        owner, _, child = name.rpartition(".")
        setattr(noisy.get_submodule(owner), child, NoisyConvolution(module, shapes[name]))
    return noisy


class Rival:
    """The step, on a network of :func:`with_noise`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        thetas = [p for n, p in model.named_parameters() if n.endswith("theta")]
        weights = [p for n, p in model.named_parameters() if not n.endswith("theta")]
        self.thetas = thetas
        self.optimizers = [
            SGD(weights, lr=0.01, momentum=0.9, nesterov=True, weight_decay=3e-4),
            SGD(thetas, lr=0.01, momentum=0.9, nesterov=True),
        ]

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        """PGD with full backward passes."""
        images = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
        for _ in range(STEPS):
            images.requires_grad_()
            F.cross_entropy(self.model(images), y).backward()
            assert images.grad is not None
            images = (images + STEP * images.grad.sign()).detach()
            images = torch.min(torch.max(images, x - EPSILON), x + EPSILON).clamp(0, 1)
        return images

    def step(self, x: Tensor, y: Tensor) -> float:
        """One joint step; returns the loss."""
        self.model.eval()
        adversarial = self.attack(x, y)
        self.model.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = 0.5 * F.cross_entropy(self.model(x), y) + 0.5 * F.cross_entropy(self.model(adversarial), y)
        regularizer = sum((theta**0.5).sum() for theta in self.thetas)
        (loss - 1e-4 * regularizer).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            for theta in self.thetas:
                theta.clamp_(min=0.01)
        return loss.item()
