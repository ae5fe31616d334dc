"""Your own attack, in a check: ``python examples/own_attack.py``. See docs/attacks.md."""

from dataclasses import dataclass

import torch

import perturbify
from perturbify import check, recipe
from perturbify.attacks import Crafted, Passes
from perturbify.checks import CheckPlan
from perturbify.checks.render import to_text


@dataclass(frozen=True)
class Brightness:
    """Makes every pixel lighter or darker by the same amount, whichever is worse."""

    epsilon: float = 8 / 255
    tries: int = 8
    norm = "linf"

    @property
    def passes(self):
        return Passes(forward=2 * self.tries + 1, gradient=0)

    @torch.no_grad()
    def craft(self, model, x, y):
        best, most = x, model(x).softmax(1).gather(1, y[:, None])
        for shift in torch.linspace(-self.epsilon, self.epsilon, 2 * self.tries):
            moved = (x + shift).clamp(0, 1)
            sure = model(moved).softmax(1).gather(1, y[:, None])
            best = torch.where((sure < most)[..., None, None], moved, best)
            most = most.minimum(sure)
        return Crafted(best, most[:, 0] < 0.5)


def main():
    settings = recipe.load("digits", {"method": "none", "train.epochs": 2, "optimizer.milestones": [1]})
    run = perturbify.finetune(perturbify.zoo.create("cifar_resnet20"), settings, "runs/own_attack")
    plan = CheckPlan(images=64, epsilon=0.1)
    print(to_text(check(run.model, "digits", plan, attacks=["fgsm", "pgd", Brightness(plan.epsilon)])))


if __name__ == "__main__":
    main()
