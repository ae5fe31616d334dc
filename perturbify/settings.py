"""The settings of a recipe, as frozen dataclasses, and which values they take.

The constants are those of the Learn2Perturb paper and its release; docs/constants.md says where each comes from.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from perturbify.numbers import MOST_IMAGES, MOST_PADDING, MOST_RATE, MOST_SEED, MOST_SIDE, MOST_STEPS
from perturbify.schema import Pair, Range, Rules
from perturbify.surgery.config import PerturbConfig


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are prepared.

    Attributes:
        name: The dataset, as ``perturbify.data`` knows it.
        root: Its folder; None: that dataset's usual location.
        image_size: Height and width in pixels that the images are resized to; None: unchanged.
        class_order: How named classes are numbered: "sorted", "natural" as timm does, or a file with a name a line;
            None: sorted, with a warning where timm's order differs.
        train_images: How many training images, evenly over the classes; None: all of them.
        held_out: How many of these, evenly over the classes, are kept out of training to choose the best epoch by, so
            that the test images are not needed for it; None: none.
        crop_padding: Pixels of zeros on each side before the random crop; 0: no crop. The release's is 4
            (docs/constants.md).
        flip: Whether half of the training images are mirrored, as in the release.
        mean: Per channel, of pixels in [0, 1], subtracted inside the model. None: the model's own if its
            weights are pretrained or say so, else the dataset's.
        std: Per channel, positive; divides after ``mean`` is subtracted. Give both or neither.
    """

    name: str
    root: str | None = None
    image_size: int | None = None
    class_order: str | None = None
    train_images: int | None = None
    held_out: int | None = None
    crop_padding: int = 4
    flip: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TrainSettings:
    """How long training takes, in what batches, and in what order (Learn2Perturb, Algorithm 1).

    Attributes:
        epochs: Passes over the training images, warm-up included; at least 1.
        batch_size: Images a step; at least 1. The release's is 128.
        warmup_epochs: The first epochs, in which W alone learns and the noise is off; from 0 to ``epochs``.
            The paper's is 20. This, and the settings from ``w_steps`` to ``tau_from``, apply to
            Learn2Perturb's schedule only; the noise of other methods is on from the first step, and W and θ learn in
            every step.
        w_steps: W-steps in a row before the θ-steps; at least 1.
        theta_steps: θ-steps in a row before the W-steps; at least 1.
        joint: Both groups step in every step, by gradients at one point and on the same images, as in Algorithm 1;
            ``w_steps`` and ``theta_steps`` are then ignored. False: they alternate, on different batches, and W
            takes fewer steps.
        theta_schedule: ``"scaled"``: θ covers the full schedule in the steps that the run has
            (:mod:`perturbify.methods.theta_way`). ``"plain"``: its learning rate and τ are used unchanged, and θ hardly
            moves in a short run.
        theta_rate_limit: The largest factor by which ``"scaled"`` multiplies θ's learning rate; at least 1. More than a
            network tolerates scatters its θ.
        tau_from: Where τ = H_k starts to count epochs: ``"noise"``, at the first in which noise is active; or
            ``"start"``, at the first of the run.
        gamma_form: ``"optimizer"``: the penalty's gradient passes through θ's optimiser with that of the loss, as in
            the release. ``"literal"``: θ moves by it directly, without learning rate and momentum, as in Algorithm 1.
            The two agree until the first milestone.
        gamma: Weight of the method's penalty, at least 0; None: the method's own. For Learn2Perturb, of the regulariser
            g(θ) (eq. 7) at batch 128, scaled by batch_size/128; for Adv-BNN, of the KL divergence, which is divided by
            the number of training images.
        held_out_every: The held-out images are classified, clean and attacked, at the end of every so many
            epochs and of the last one; at least 1.
        save_minutes: The state is saved at the end of each epoch and at least this often; positive.
        accumulate: Number of parts in which a batch is attacked and differentiated, one by one, for a single update:
            less memory, and batch norm sees the parts; from 1 to ``batch_size``.
        ema_decay: Weight of the past in the moving average of all weights and θ that is written beside the model, as
            ``average.safetensors``; in (0, 1). None: no average.
        sync_batchnorm: Whether batch norm computes its statistics over the images of all processes; on GPUs only.
        tensorboard: Whether each epoch's metrics are written for TensorBoard as well.
    """

    epochs: int
    batch_size: int
    warmup_epochs: int = 0
    w_steps: int = 1
    theta_steps: int = 1
    joint: bool = True
    theta_schedule: Literal["scaled", "plain"] = "scaled"
    theta_rate_limit: float = 50.0
    tau_from: Literal["noise", "start"] = "noise"
    gamma_form: Literal["optimizer", "literal"] = "optimizer"
    gamma: float | None = None
    held_out_every: int = 1
    save_minutes: float = 10.0
    accumulate: int = 1
    ema_decay: float | None = None
    sync_batchnorm: bool = False
    tensorboard: bool = False


@dataclass(frozen=True)
class SpeedSettings:
    """How a step is computed; the result stays the same, except for rounding and which noise it draws.

    Attributes:
        precision: Of convolutions and matrix products: ``"bfloat16"`` by autocast; weights, θ, batch norm's statistics
            and losses stay in float32.
        channels_last: Whether feature maps are in channels-last memory.
        compile: Whether torch.compile compiles the network, one graph for the attack and one for learning:
            ``"auto"`` does so on a GPU, and continues uncompiled if it fails.
        cuda_graphs: Whether the compiled graphs are replayed as CUDA graphs; needs fixed shapes and more memory.
        data_on_device: Whether all training images are kept on the device, as uint8: ``"auto"`` does so on a GPU
            if they take no more than a quarter of its free memory.
    """

    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    compile: Literal["auto", "on", "off"] = "auto"
    cuda_graphs: bool = False
    data_on_device: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimiser and its step schedule, for one group of parameters: W or θ.

    Attributes:
        lr: Learning rate; at least 0. The release's is 0.1 for both groups.
        kind: ``"sgd"``, or ``"adam"`` with its usual moments, which ignores ``momentum`` and ``nesterov``.
        momentum: In [0, 1).
        nesterov: Nesterov's momentum; needs ``momentum``.
        weight_decay: At least 0. The release's is 3e-4 on W and 0 on θ.
        milestones: Epochs, counted from 0 and increasing, from each of which on ``decay`` applies once more.
        decay: Factor on the learning rate at each milestone; in (0, 1].
    """

    lr: float
    kind: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1


@dataclass(frozen=True)
class AttackSettings:
    """The adversary of training: l∞ PGD (docs/constants.md).

    Attributes:
        epsilon: Radius of the ball, of pixels in [0, 1]; in (0, 1].
        step_size: Length of a step, in the same unit; in (0, 1].
        steps: At least 1.
        random_start: Start anywhere in the ball instead of at the image.
        weight: Weight of the adversarial loss, in [0, 1]; the clean loss has the rest.
        from_epoch: The first epoch, counted from 0, with the attack. The release's is 20; the paper has no such
            delay.
        labels: What it moves away from: the images' ``"true"`` classes, or the ``"predicted"`` ones, as in the release.
    """

    epsilon: float = 8 / 255
    step_size: float = 0.01
    steps: int = 7
    random_start: bool = True
    weight: float = 0.5
    from_epoch: int = 0
    labels: Literal["true", "predicted"] = "true"


@dataclass(frozen=True)
class CheckSettings:
    """The check at the end of a run, and its adversary.

    Attributes:
        images: Test images, at least 1; all of them if there are fewer.
        epsilon: As in :class:`AttackSettings`.
        step_size: As in :class:`AttackSettings`.
        steps: As in :class:`AttackSettings`.
        eot_draws: Independent draws of the noise that each step of EOT-PGD averages, where it is run (`reproduce`); at
            least 1.
        batch_size: Images attacked at once; at least 1.
    """

    images: int = 256
    epsilon: float = 8 / 255
    step_size: float = 0.01
    steps: int = 7
    eot_draws: int = 10
    batch_size: int = 128


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run.

    Attributes:
        name: The stem of the file it came from; not in the TOML.
        model: The network, as ``perturbify.zoo`` knows it.
        model_args: Keyword arguments for the network's builder.
        method: The defence, as ``perturbify.methods`` knows it.
        seed: Seed of every random number in the run; from 0 to 2³²-1.
        data: Which images.
        perturb: Where the noise goes and θ's initial value; by default as in the method.
        train: How long and in what order.
        optimizer: For W.
        theta_optimizer: For θ.
        attack: The adversary of training.
        check: The check at the end.
        speed: How steps are computed.
    """

    name: str
    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    method: str
    seed: int = 0
    data: DataSettings
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    train: TrainSettings
    optimizer: OptimizerSettings
    theta_optimizer: OptimizerSettings = OptimizerSettings(lr=0.1)
    attack: AttackSettings = AttackSettings()
    check: CheckSettings = CheckSettings()
    speed: SpeedSettings = SpeedSettings()


def _one_per_channel(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> bool:
    if mean is None or std is None:
        return mean is std
    return 0 < len(mean) == len(std)


def _above_floor(start: float | str, floor: float | None) -> bool:
    return floor is None or isinstance(start, str) or start >= floor


_POSITIVE = Range(above=0, limit=MOST_RATE)
_IMAGES = Range(least=1, limit=MOST_IMAGES)
_STEPS = Range(least=1, limit=MOST_STEPS)
_FROM_ZERO = Range(least=0, limit=MOST_STEPS)
_PIXELS = Range(above=0, most=1, fraction=True)

RULES: Mapping[type, Rules] = {
    Recipe: Rules({"seed": Range(least=0, most=MOST_SEED)}),
    DataSettings: Rules(
        {
            "image_size": Range(least=1, limit=MOST_SIDE),
            "train_images": _IMAGES,
            "held_out": _IMAGES,
            "crop_padding": Range(least=0, limit=MOST_PADDING),
            "mean": Range(least=0, most=1, fraction=True),
            "std": Range(above=0, limit=MOST_RATE, fraction=True),
        },
        (Pair("mean", "std", _one_per_channel, "and std must be given together, one number per channel"),),
    ),
    PerturbConfig: Rules(
        {"theta_init": Range(), "theta_first": Range(), "theta_min": _POSITIVE},
        (Pair("theta_init", "theta_min", _above_floor, "must be at least theta_min"),),
    ),
    TrainSettings: Rules(
        {
            "epochs": _STEPS,
            "batch_size": _IMAGES,
            "warmup_epochs": _FROM_ZERO,
            "w_steps": _STEPS,
            "theta_steps": _STEPS,
            "theta_rate_limit": Range(least=1, limit=MOST_RATE),
            "gamma": Range(least=0, limit=MOST_RATE),
            "held_out_every": _STEPS,
            "save_minutes": _POSITIVE,
            "accumulate": _IMAGES,
            "ema_decay": Range(above=0, below=1),
        },
        (
            Pair("warmup_epochs", "epochs", operator.le, "must be at most epochs"),
            Pair("accumulate", "batch_size", operator.le, "must be at most batch_size"),
        ),
    ),
    OptimizerSettings: Rules(
        {
            "lr": Range(least=0, limit=MOST_RATE),
            "momentum": Range(least=0, below=1),
            "weight_decay": Range(least=0, limit=MOST_RATE),
            "milestones": Range(least=0, limit=MOST_STEPS, increasing=True),
            "decay": Range(above=0, most=1),
        },
        (Pair("nesterov", "momentum", lambda on, m: m > 0 or not on, "needs a momentum above 0"),),
    ),
    AttackSettings: Rules(
        {
            "epsilon": _PIXELS,
            "step_size": _PIXELS,
            "steps": _STEPS,
            "weight": Range(least=0, most=1),
            "from_epoch": _FROM_ZERO,
        }
    ),
    CheckSettings: Rules(
        {
            "images": _IMAGES,
            "epsilon": _PIXELS,
            "step_size": _PIXELS,
            "steps": _STEPS,
            "eot_draws": _STEPS,
            "batch_size": _IMAGES,
        }
    ),
    SpeedSettings: Rules({}, (Pair("cuda_graphs", "compile", lambda on, c: c != "off" or not on, "needs compile"),)),
}
