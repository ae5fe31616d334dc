"""One step: attack, two forwards, one backward, one update."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from perturbify.attacks import Pgd, frozen_eval, pgd
from perturbify.compiling import compiled
from perturbify.errors import TrainingError
from perturbify.methods import Method, NoisySite, Stage
from perturbify.methods.loss import Adversary, Loss, checked, logits, look
from perturbify.methods.theta_way import tau_epoch
from perturbify.perturbation import noise
from perturbify.ranks import Ranks
from perturbify.settings import OptimizerSettings, Recipe
from perturbify.surgery.noisy import Perturbed, noisy_sites
from perturbify.text import first_line
from perturbify.training.average import MovingAverage
from perturbify.training.metrics import StepFigures
from perturbify.training.phases import Phase, learning_rate
from perturbify.training.seeds import private_generators


class Trainer:
    """A network with the two groups that learn, each with its optimiser: weights W and noise θ.

    Args:
        model: The perturbed network.
        recipe: Optimisers, attack, schedule.
        method: The defence.
        processes: The processes that take each step together, each on its own images and noise. Their networks are
            synchronised here; their gradients are averaged, and so are batch norm's statistics.

    Attributes:
        average: The moving average of the network, if the recipe asks for one.
        images: Number of training images, which some penalties depend on.
        theta_pace: The factor on θ's learning rate, from :mod:`perturbify.methods.theta_way`.
        waits: Whether a step waits for its losses before it updates, which costs nothing on the CPU; elsewhere the
            update is made even with a loss that is not finite, which is found later.
    """

    def __init__(self, model: Perturbed, recipe: Recipe, method: Method, processes: Ranks = Ranks()) -> None:
        self.model = model
        self.processes = processes
        processes.broadcast_([*model.parameters(), *model.buffers()])
        self._statistics = [
            t
            for m in model.modules()
            for t in (getattr(m, "running_mean", None), getattr(m, "running_var", None))
            if isinstance(t, Tensor)
        ]
        self.recipe = recipe
        self.method = method
        self._device = next(model.parameters()).device
        self.waits = self._device.type == "cpu"
        self._compiled: nn.Module | None = None
        self._batch: torch.Size | None = None  # the shape that was compiled for
        wanted = recipe.speed.compile
        self._compile = wanted == "on" or (wanted == "auto" and self._device.type == "cuda")
        sites = noisy_sites(model)
        every_theta = {id(p.theta) for p, _ in sites}
        self.thetas: list[nn.Parameter] = [p.theta for p, _ in sites if p.theta.requires_grad]
        self.weights = [p for p in model.parameters() if id(p) not in every_theta and p.requires_grad]
        self._noisy = [NoisySite(p.theta, weight) for p, weight in sites if p.theta.requires_grad]
        self.images = 1
        self.theta_pace = 1.0
        everything = (*model.parameters(), *model.buffers())
        self._finite = [t for t in everything if t.requires_grad or bool(t.isfinite().all())]
        self.optimizers: dict[str, Optimizer] = {"weights": _optimizer(self.weights, recipe.optimizer)}
        if self.thetas:
            self.optimizers["thetas"] = _optimizer(self.thetas, recipe.theta_optimizer)
        a = recipe.attack
        self._attack = Pgd(a.epsilon, a.step_size, a.steps, a.random_start)
        decay = recipe.train.ema_decay
        self.average = None if decay is None else MovingAverage(model, decay)

    def set_epoch(self, epoch: int) -> dict[str, float]:
        """Sets both learning rates for an epoch (from 0) and returns them."""
        settings = {"weights": self.recipe.optimizer, "thetas": self.recipe.theta_optimizer}
        rates = {name: learning_rate(settings[name], epoch) for name in self.optimizers}
        if "thetas" in rates:
            rates["thetas"] *= self.theta_pace
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[name]
        return rates

    def step(self, x: Tensor, y: Tensor, phase: Phase, epoch: int, *, images: int | None = None) -> StepFigures:
        """Takes one step.

        Args:
            x: Images, shape (N, C, H, W), in [0, 1], augmented.
            y: Labels, shape (N,).
            phase: Which parameters learn.
            epoch: From 0; decides on the attack and on τ.
            images: Of all processes together; default: N.

        Returns:
            This process's losses before the update. If it waits for them and the loss of any process is not
            finite, nothing has been updated.

        Raises:
            TrainingError: The recipe asks for compilation, and torch.compile fails.
        """
        self._compile_once(x, y)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        values = torch.zeros(4, device=x.device)
        crafted = False
        for part, labels in zip(self._parts(x), self._parts(y), strict=True):
            with noise(self.model, phase.noise):
                crafted = self._differentiate(part, labels, phase, epoch, len(part) / len(x), values)
        if self.waits:
            (failed,) = self.processes.any(not values.isfinite().all(), device=x.device)
            if failed:
                return StepFigures(len(y), crafted, values)
        self._update(phase, epoch, len(y) * self.processes.world / (images or len(y)))
        return StepFigures(len(y), crafted, values)

    def is_finite(self) -> bool:
        """Whether every weight, θ and buffer is finite; buffers that never were (a mask of -inf) do not count."""
        return all(bool(tensor.isfinite().all()) for tensor in self._finite)

    def update(self, phase: Phase, epoch: int) -> None:
        """Updates the parameters that learn in a phase by their gradients and the method's penalty, then projects.

        Args:
            phase: Which parameters learn.
            epoch: From 0.
        """
        outright = self._penalize(phase, epoch)
        if phase.weights:
            self.optimizers["weights"].step()
        if phase.thetas and self.thetas:
            self.optimizers["thetas"].step()
        with torch.no_grad():
            for theta, gradient in zip(self.thetas if outright else (), outright, strict=True):
                theta.sub_(gradient, alpha=self.theta_pace)
        self.method.project_(self.model)

    def _penalize(self, phase: Phase, epoch: int) -> Sequence[Tensor]:
        """Adds the penalty's gradient to the parameters it is for; returns θ's, where θ moves by it directly."""
        followers = [*(self.thetas if phase.thetas else ())]
        if phase.weights and phase.noise and self.method.penalizes_weights:
            followers += self.weights
        if not followers:
            return ()
        penalty = self.method.penalty(self._noisy, self._stage(epoch))
        if penalty is None:
            return ()
        outright: Sequence[Tensor] = ()
        if phase.thetas and self.recipe.train.gamma_form == "literal":
            outright = torch.autograd.grad(penalty, self.thetas, retain_graph=True)
            del followers[: len(self.thetas)]
        if followers:
            penalty.backward(inputs=followers)
        return outright

    def _stage(self, epoch: int) -> Stage:
        train = self.recipe.train
        gamma = self.method.gamma if train.gamma is None else train.gamma
        k = tau_epoch(epoch, train, warms_up=self.method.alternates)
        return Stage(k, train.batch_size, self.images, gamma, self.recipe.attack.weight)

    def _adversary(self, epoch: int) -> Adversary | None:
        attack = self.recipe.attack
        if not self.method.adversarial or not attack.weight or epoch < attack.from_epoch:
            return None
        if attack.labels == "predicted":
            return lambda network, x, _: pgd(network, x, self._predicted(x), self._attack)
        return lambda network, x, y: pgd(network, x, y, self._attack)

    def _predicted(self, x: Tensor) -> Tensor:
        with frozen_eval(self.model), torch.no_grad():
            return logits(self.model, x).argmax(1)

    def _parts(self, whole: Tensor) -> tuple[Tensor, ...]:
        return whole.tensor_split(min(self.recipe.train.accumulate, len(whole) // 2 or 1))

    def _differentiate(self, x: Tensor, y: Tensor, phase: Phase, epoch: int, portion: float, values: Tensor) -> bool:
        """Accumulates a part's gradients, and its figures in ``values``; returns whether it was attacked."""
        learning = self._learning(phase)
        network = self._compiled if self._compiled is not None and x.shape == self._batch else self.model
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.speed.precision == "bfloat16"):
            if learning:
                found = self.method.loss(network, x, y, self._adversary(epoch), self._stage(epoch))
                found = checked(found, self.method.name)
            else:
                clean = look(self.model, x, y)
                found = Loss(clean.loss, clean)
        if learning:
            (found.total * portion if portion < 1 else found.total).backward(inputs=learning)
        scored = [found.clean] if found.adversarial is None else [found.clean, found.adversarial]
        figures = [figure for s in scored for figure in (portion * s.loss, s.hits)]
        values[: len(figures)] += torch.stack([f.detach().float() for f in figures])
        return found.adversarial is not None

    def _learning(self, phase: Phase) -> list[nn.Parameter]:
        from_loss = phase.thetas and self.method.theta_from_loss
        return [*(self.weights if phase.weights else ()), *(self.thetas if from_loss else ())]

    def _update(self, phase: Phase, epoch: int, weight: float) -> None:
        """Updates the parameters; ``weight`` scales this process's gradients so that their mean is over all images."""
        gradients = [p.grad for p in self._learning(phase) if p.grad is not None]
        if weight != 1:
            for gradient in gradients:
                gradient.mul_(weight)
        self.processes.average_([*gradients, *self._statistics])
        self.update(phase, epoch)
        if self.average is not None:
            self.average.update(self.model)

    def _compile_once(self, x: Tensor, y: Tensor) -> None:
        """Compiles for batches of the first one's shape; an epoch's smaller last batch runs uncompiled."""
        if not self._compile:
            return
        self._compile = False
        part, labels = self._parts(x)[0], self._parts(y)[0]
        try:
            with private_generators():  # a step's draws do not depend on whether it compiled first
                self._compiled = compiled(self.model, part, labels, cuda_graphs=self.recipe.speed.cuda_graphs)
            self._batch = part.shape
        except Exception as error:  # torch.compile's failures have no common class
            if self.recipe.speed.compile == "on":
                raise TrainingError(
                    f"torch.compile failed: {first_line(error)}.", "Turn it off with --set speed.compile=off."
                ) from error
            warnings.warn(f"Training runs uncompiled: torch.compile failed ({first_line(error)}).", stacklevel=2)


def _optimizer(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    fused = True if parameters and parameters[0].is_cuda else None
    if settings.kind == "adam":
        return Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
    return SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=fused,
    )
