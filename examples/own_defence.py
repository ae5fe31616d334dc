"""Your own defence, trained and checked: ``python examples/own_defence.py`` (docs/methods.md)."""

import perturbify
from perturbify import PerturbConfig, methods, recipe
from perturbify.checks import CheckPlan
from perturbify.checks.render import to_text


@methods.register
class Widening(methods.Method):
    """Noise behind every convolution, one θ per channel, kept from vanishing by a logarithmic barrier."""

    name = "widening"
    source = "the paper that you are writing"
    perturb = PerturbConfig("channel", theta_init=0.1, theta_min=0.001)
    adversarial = True  # trains on the recipe's [attack]
    gamma = 1e-4  # train.gamma, if a recipe sets none
    draws = 8  # draws that predict() averages

    def penalty(self, sites, stage):
        """-γ Σ ln θ, added to the loss of every step."""
        return -stage.gamma * sum(site.theta.log().sum() for site in sites)


def main():
    settings = recipe.load("smoke", ["method=widening", "train.epochs=4"])
    run = perturbify.finetune(perturbify.zoo.create("cifar_resnet20"), settings, "runs/own_defence")
    for epoch in run.metrics:
        print(f"epoch {epoch['epoch']}: loss {epoch['clean_loss']:.2f}, mean θ {epoch['theta']['mean']:.3f}")
    print(to_text(perturbify.check(run.model, "digits", CheckPlan(images=64, epsilon=0.1, attacks=("fgsm", "pgd")))))


if __name__ == "__main__":
    main()
