"""Your own network, from any nn.Module to a noisy file and its report: ``python examples/own_network.py``."""

import torch
from torch import nn

import perturbify
from perturbify import recipe
from perturbify.checks import CheckPlan
from perturbify.checks.render import to_text


class Net(nn.Module):
    """Stands for your network: nothing in it knows about perturbify."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().flatten(1))


def main():
    torch.manual_seed(0)
    net = Net()
    print(perturbify.plan(net, example_input=torch.rand(2, 3, 8, 8)))

    settings = recipe.load("digits", {"train.epochs": 4, "train.warmup_epochs": 1, "optimizer.lr": 0.03})
    run = perturbify.finetune(net, settings, "runs/own_network")
    again = perturbify.load(run.folder.model, model=Net())  # one file; the noise stays on

    report = perturbify.check(again, "digits", CheckPlan(images=64, epsilon=0.1, attacks=("fgsm", "pgd", "margin")))
    print(to_text(report))


if __name__ == "__main__":
    main()
