"""One step: attack, two forwards, one backward, one update."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from perturbify.attacks import Pgd, pgd
from perturbify.methods import Method
from perturbify.methods.learn2perturb import harmonic, regularizer, scaled_gamma
from perturbify.perturbation import Perturbation, noise, perturbations
from perturbify.ranks import Ranks
from perturbify.recipe import OptimizerSettings, Recipe
from perturbify.surgery.perturbed import Perturbed
from perturbify.training.metrics import StepResult
from perturbify.training.phases import Phase, learning_rate, noisy_epoch


class Learner:
    """A network with the two groups that learn in turn, each with its optimiser: weights W and noise θ.

    Args:
        model: The perturbed network.
        recipe: Optimisers, attack, schedule.
        method: The defence.
        among: The processes that take each step together, each on images and noise of its own. Their networks are made
            alike here; their gradients are averaged, and so are batch norm's statistics.
    """

    def __init__(self, model: Perturbed, recipe: Recipe, method: Method, among: Ranks = Ranks()) -> None:
        self.model = model
        self.among = among
        among.share_([*model.parameters(), *model.buffers()])
        self._statistics = [
            t
            for m in model.modules()
            for t in (getattr(m, "running_mean", None), getattr(m, "running_var", None))
            if isinstance(t, Tensor)
        ]
        self.recipe = recipe
        self.method = method
        self.noises: list[Perturbation] = [p for _, p in perturbations(model)]
        self.thetas: list[nn.Parameter] = [p.theta for p in self.noises]
        ids = {id(t) for t in self.thetas}
        self.weights = [p for p in model.parameters() if id(p) not in ids and p.requires_grad]
        everything = (*model.parameters(), *model.buffers())
        self._finite = [t for t in everything if t.requires_grad or bool(t.isfinite().all())]
        self.optimizers: dict[str, Optimizer] = {"weights": _sgd(self.weights, recipe.optimizer)}
        if self.thetas:
            self.optimizers["thetas"] = _sgd(self.thetas, recipe.theta_optimizer)
        a = recipe.attack
        self._attack = Pgd(a.epsilon, a.step_size, a.steps, a.random_start)

    def set_epoch(self, epoch: int) -> dict[str, float]:
        """Sets both learning rates for an epoch (from 0) and returns them."""
        settings = {"weights": self.recipe.optimizer, "thetas": self.recipe.theta_optimizer}
        rates = {name: learning_rate(settings[name], epoch) for name in self.optimizers}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[name]
        return rates

    def step(self, x: Tensor, y: Tensor, phase: Phase, epoch: int, *, images: int | None = None) -> StepResult:
        """Takes one step.

        Args:
            x: Images, shape (N, C, H, W), in [0, 1], augmented.
            y: Labels, shape (N,).
            phase: Who learns.
            epoch: From 0; decides on the attack and on τ.
            images: Of all processes together; default: N.

        Returns:
            This process's losses before the update. Where the loss of any is not finite, nothing has been updated.
        """
        attack = self.recipe.attack
        share = attack.weight if self.method.adversarial and epoch >= attack.from_epoch else 0.0
        with noise(self.model, phase.noise):
            attacked = pgd(self.model, x, y, self._attack) if share else None
            clean_loss, clean_correct = _classify(self.model, x, y)
            loss = (1 - share) * clean_loss
            adversarial_loss, adversarial_correct = None, 0
            if attacked is not None:
                adversarial_loss, adversarial_correct = _classify(self.model, attacked, y)
                loss = loss + share * adversarial_loss
        result = StepResult(
            len(y),
            clean_loss.item(),
            clean_correct,
            None if adversarial_loss is None else adversarial_loss.item(),
            adversarial_correct,
        )
        (failed,) = self.among.any(not loss.isfinite(), device=loss.device)
        if not failed:
            # So that the mean over processes is the mean over images.
            share_of_images = len(y) * self.among.world / (images or len(y))
            self._update(loss * share_of_images if share_of_images != 1 else loss, phase, epoch)
        return result

    def is_finite(self) -> bool:
        """Whether every weight, θ and buffer is a number; buffers that never were (a mask of -inf) do not count."""
        return all(bool(tensor.isfinite().all()) for tensor in self._finite)

    def update_thetas(self, epoch: int) -> None:
        """Moves θ by the gradient it has and that of the regulariser, then lifts it to its floor.

        Args:
            epoch: From 0; decides on τ.
        """
        train = self.recipe.train
        gamma = scaled_gamma(train.gamma, train.batch_size)
        tau = harmonic(noisy_epoch(epoch, train))
        (gamma * regularizer(self.thetas, tau)).backward(inputs=self.thetas)
        self.optimizers["thetas"].step()
        for perturbation in self.noises:
            perturbation.project_()

    def _update(self, loss: Tensor, phase: Phase, epoch: int) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        learning = list(self.weights) if phase.weights else []
        if phase.thetas and self.method.theta_from_loss:
            learning += self.thetas
        if learning:
            loss.backward(inputs=learning)
        self.among.average_([*(p.grad for p in learning if p.grad is not None), *self._statistics])
        if phase.weights:
            self.optimizers["weights"].step()
        if phase.thetas:
            self.update_thetas(epoch)


def _classify(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    logits = model(x)
    # GoogLeNet and Inception give auxiliary logits as well while they train; the main ones come first.
    logits = logits[0] if isinstance(logits, tuple) else logits
    return F.cross_entropy(logits, y), int((logits.argmax(1) == y).sum())


def _sgd(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> SGD:
    return SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )
