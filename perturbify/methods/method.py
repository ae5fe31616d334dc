"""What a defence is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from perturbify.errors import MethodError
from perturbify.surgery.config import PerturbConfig, SiteKind

if TYPE_CHECKING:  # a recipe is read without torch, and asks the methods for their defaults
    from torch import Tensor, nn

    from perturbify.methods.loss import Adversary, Loss
    from perturbify.normalize import Normalize
    from perturbify.prediction import Prediction
    from perturbify.surgery.noisy import Perturbed


@dataclass(frozen=True)
class Stage:
    """Where training stands, as far as a loss or a penalty may depend on it.

    Attributes:
        k: The epoch as τ counts it: from 1 at the first in which noise is active, and below 1 before; of the full
            schedule, where that of θ is scaled (:func:`perturbify.methods.theta_way.tau_epoch`).
        batch_size: Images a step, over all processes.
        images: Training images.
        gamma: The method's ``gamma``, or the recipe's ``train.gamma``.
        attack_weight: Share of the adversarial loss, ``attack.weight``.
    """

    k: int
    batch_size: int
    images: int
    gamma: float
    attack_weight: float = 0.5


@dataclass(frozen=True)
class NoisySite:
    """One site, as a penalty sees it.

    Attributes:
        theta: Its noise parameters.
        weight: The weight that the noise is on; None where it is on a feature map.
    """

    theta: Tensor
    weight: Tensor | None = None


class Method:
    """A defence: where its noise is, what its loss is, what it projects, what learns when, and how it predicts.

    A defence is a subclass that :func:`perturbify.methods.register` knows. What it does not set or override is as here:
    plain training without noise. docs/methods.md has an example.

    Attributes:
        name: What recipes, files and commands call it.
        source: Whose it is.
        perturb: Its noise; None: it has none.
        sites: Other sites that its noise may be put on, besides that of ``perturb``.
        adversarial: Whether it trains on adversarial images as well, by the recipe's ``[attack]``.
        alternates: Whether its schedule is Learn2Perturb's (Algorithm 1): a warm-up without noise, then W and θ
            together or in turns, as ``train.joint`` has it. Otherwise both learn in every step, and the noise is on
            from the first.
        theta_from_loss: Whether θ follows the gradient of the network's loss; otherwise the penalty's alone.
        gamma: The weight of the penalty, or of a term of the loss, where the recipe gives none.
        penalizes_weights: Whether the weights follow the penalty's gradient as well.
        draws: How many draws a prediction takes the mean softmax of.
        certifies: Whether its answers come with a certified radius (docs/certify.md).
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    perturb: ClassVar[PerturbConfig | None] = None
    sites: ClassVar[tuple[SiteKind, ...]] = ()
    adversarial: ClassVar[bool] = False
    alternates: ClassVar[bool] = False
    theta_from_loss: ClassVar[bool] = True
    gamma: ClassVar[float] = 0.0
    penalizes_weights: ClassVar[bool] = False
    draws: ClassVar[int] = 1
    certifies: ClassVar[bool] = False

    @property
    def noisy(self) -> bool:
        """Whether it puts noise into the network."""
        return self.perturb is not None

    def check_config(self, config: PerturbConfig | None) -> None:
        """Makes sure that a network's noise is of this method's kind; grain, share, start and modules are free.

        Raises:
            MethodError: It is another method's noise.
        """
        if self.perturb is None or config is None:
            if (self.perturb is None) == (config is None):
                return
            raise MethodError(
                f"The method {self.name} {'needs noise' if self.noisy else 'has no noise'}, this network has "
                f"{'none' if config is None else 'some'}.",
                "Start from the plain network, or choose another method.",
            )
        allowed = (self.perturb.site, *self.sites)
        if config.site not in allowed:
            named = " or ".join(filter(None, (", ".join(allowed[:-1]), allowed[-1])))
            raise MethodError(f"The method {self.name} takes site {named}, not {config.site}.")
        for key in ("scale", "learnable", "extent"):
            if getattr(config, key) != getattr(self.perturb, key):
                raise MethodError(
                    f"The method {self.name} has noise with {key}={getattr(self.perturb, key)!r}, this one has "
                    f"{getattr(config, key)!r}."
                )

    def start_(self, network: Perturbed, normalize: Normalize | None) -> None:
        """Sets what θ starts from, where ``perturb`` cannot say it; called once, when a network has been wrapped.

        Args:
            network: The network.
            normalize: The layer that was put before it.
        """

    def check(self, network: Perturbed) -> None:
        """Makes sure that a network is one that the method can defend; called when it has been wrapped or loaded.

        Raises:
            MethodError: It is not.
        """

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, adversary: Adversary | None, stage: Stage) -> Loss:
        """The loss of a step, whose gradient W and θ follow: by default cross-entropy, of clean and attacked images.

        Args:
            network: In train mode, its noise as the phase has it; perhaps compiled.
            x: Images, shape (N, C, H, W), in [0, 1], augmented.
            y: Labels, shape (N,).
            adversary: Makes adversarial images of a network, images and labels, by the recipe's ``[attack]``; None
                where there is no attack: the method is not ``adversarial``, its epoch has not come, or its weight is 0.
            stage: Where training stands.
        """
        from perturbify.methods.loss import weighted

        return weighted(network, x, y, adversary, stage.attack_weight)

    def remarks(self, network: Perturbed) -> tuple[str, ...]:
        """What a report should say of the network's noise, a sentence each."""
        return ()

    def penalty(self, sites: Sequence[NoisySite], stage: Stage) -> Tensor | None:
        """What is added to the loss of a step, as a scalar; None: nothing.

        Args:
            sites: Those with a θ that is trained.
            stage: Where training stands.
        """
        return None

    def project_(self, network: Perturbed) -> None:
        """Puts the network back where it may be, after each update: by default every θ at or above its floor."""
        from perturbify.perturbation import perturbations

        for _, perturbation in perturbations(network):
            perturbation.project_()

    def predict(self, network: Perturbed, images: Tensor, draws: int | None = None) -> Prediction:
        """Classifies images: by default by the mean softmax of so many draws.

        Args:
            network: In eval mode.
            images: Shape (N, C, H, W), in [0, 1].
            draws: By default the method's own number.
        """
        from perturbify.prediction import predict_mean

        return predict_mean(network, images, self.draws if draws is None else draws)
