"""The parts of a defence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from perturbify.errors import MethodError
from perturbify.surgery.config import PerturbConfig, SiteKind

if TYPE_CHECKING:  # a recipe is read without torch, and takes defaults from the methods
    from torch import Tensor, nn

    from perturbify.methods.loss import Adversary, Loss
    from perturbify.normalize import Normalize
    from perturbify.prediction import Prediction
    from perturbify.surgery.noisy import Perturbed


@dataclass(frozen=True)
class Stage:
    """The stage of training, as far as a loss or a penalty may depend on it.

    Attributes:
        k: The epoch as τ counts it: 1 at the first in which noise is active, and below 1 before; on the full
            schedule, if θ's is scaled (:func:`perturbify.methods.theta_way.tau_epoch`).
        batch_size: Images per step, over all processes.
        images: Number of training images.
        gamma: The method's ``gamma``, or the recipe's ``train.gamma``.
        attack_weight: Weight of the adversarial loss, ``attack.weight``.
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
        weight: The weight that the noise is on; None if it is on a feature map.
    """

    theta: Tensor
    weight: Tensor | None = None


class Method:
    """A defence: where its noise is, what its loss is, what it projects, what learns when, and how it predicts.

    A defence is a subclass registered by :func:`perturbify.methods.register`. What it does not set or override is
    plain training without noise. docs/methods.md has an example.

    Attributes:
        name: Its name in recipes, files and commands.
        source: The paper it is from.
        perturb: Its noise; None: it has none.
        sites: Other sites that its noise may be on, besides that of ``perturb``.
        adversarial: Whether it also trains on adversarial images, by the recipe's ``[attack]``.
        alternates: Whether its schedule is Learn2Perturb's (Algorithm 1): a warm-up without noise, then W and θ
            jointly or alternating, as in ``train.joint``. Otherwise both learn in every step, and the noise is on
            from the first.
        theta_from_loss: Whether θ follows the gradient of the network's loss; otherwise only the penalty's.
        gamma: The weight of the penalty, or of a term of the loss, if the recipe gives none.
        penalizes_weights: Whether the weights follow the penalty's gradient, too.
        draws: Number of draws whose mean softmax is a prediction.
        certifies: Whether its predictions come with a certified radius (docs/certify.md).
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
        """Whether it adds noise to the network."""
        return self.perturb is not None

    def check_config(self, config: PerturbConfig | None) -> None:
        """Checks that a network's noise is of this method's kind; grain, draws, initial value and modules are free.

        Raises:
            MethodError: It is another method's noise.
        """
        if self.perturb is None or config is None:
            if (self.perturb is None) == (config is None):
                return
            raise MethodError(
                f"The method {self.name} {'needs noise' if self.noisy else 'has no noise'}, but this network has "
                f"{'none' if config is None else 'some'}.",
                "Start from the plain network, or choose another method.",
            )
        allowed = (self.perturb.site, *self.sites)
        if config.site not in allowed:
            named = " or ".join(filter(None, (", ".join(allowed[:-1]), allowed[-1])))
            raise MethodError(f"The method {self.name} takes the site {named}, not {config.site}.")
        for key in ("scale", "learnable", "extent"):
            if getattr(config, key) != getattr(self.perturb, key):
                raise MethodError(
                    f"The noise of the method {self.name} has {key}={getattr(self.perturb, key)!r}, but this noise has "
                    f"{getattr(config, key)!r}."
                )

    def start_(self, network: Perturbed, normalize: Normalize | None) -> None:
        """Sets θ's initial values if ``perturb`` cannot express them; called once, after a network is wrapped.

        Args:
            network: The network.
            normalize: The layer that was put before it.
        """

    def check(self, network: Perturbed) -> None:
        """Checks that the method can defend a network; called after it is wrapped or loaded.

        Raises:
            MethodError: It cannot.
        """

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, adversary: Adversary | None, stage: Stage) -> Loss:
        """The loss of a step, whose gradient W and θ follow: by default cross-entropy, of clean and adversarial images.

        Args:
            network: In train mode, its noise on or off as in the phase; perhaps compiled.
            x: Images, shape (N, C, H, W), in [0, 1], augmented.
            y: Labels, shape (N,).
            adversary: Makes adversarial images from a network, images and labels, by the recipe's ``[attack]``; None
                if there is no attack: the method is not ``adversarial``, its first epoch is later, or its weight is 0.
            stage: The stage of training.
        """
        from perturbify.methods.loss import weighted

        return weighted(network, x, y, adversary, stage.attack_weight)

    def remarks(self, network: Perturbed) -> tuple[str, ...]:
        """Remarks on the network's noise for a report, a sentence each."""
        return ()

    def penalty(self, sites: Sequence[NoisySite], stage: Stage) -> Tensor | None:
        """A scalar that is added to the loss of a step; None: nothing.

        Args:
            sites: Those whose θ is trained.
            stage: The stage of training.
        """
        return None

    def project_(self, network: Perturbed) -> None:
        """Projects the network after each update: by default every θ to at least its floor."""
        from perturbify.perturbation import perturbations

        for _, perturbation in perturbations(network):
            perturbation.project_()

    def predict(self, network: Perturbed, images: Tensor, draws: int | None = None) -> Prediction:
        """Classifies images: by default by the mean softmax of several draws.

        Args:
            network: In eval mode.
            images: Shape (N, C, H, W), in [0, 1].
            draws: Number of draws; by default the method's own.
        """
        from perturbify.prediction import predict_mean

        return predict_mean(network, images, self.draws if draws is None else draws)
