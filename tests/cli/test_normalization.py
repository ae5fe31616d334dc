"""How pixels reach a network: what the options say, what is printed, and what is in the file and the report."""

from __future__ import annotations

import pytest
import torch

from perturbify import data, recipe
from perturbify.checkpoint import read_header

INSIDE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 1, groups=3, bias=False), nn.Linear(192, num_classes)
        nn.init.ones_(self.conv.weight)

    def features(self, x):
        return torch.cos(12 * self.conv(x)).flatten(1)  # of pixels in [0, 1]

    def forward(self, x):
        return self.head(self.features(x))
"""


@pytest.fixture
def inside(folder, monkeypatch):
    """A trained network that takes pixels as they are, where its code is all that says so."""
    (folder / "inside_net.py").write_text(INSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    import inside_net

    net, train = inside_net.Net(), data.load("digits").train
    x, y = next(train.batches(len(train)))
    with torch.no_grad():
        features, wanted = net.features(x), torch.nn.functional.one_hot(y, 10).float()
        mean = features.mean(0)
        gram = (features - mean).T @ (features - mean) + torch.eye(192)
        weight = torch.linalg.solve(gram, (features - mean).T @ wanted).T
        net.head.weight.copy_(weight)
        net.head.bias.copy_(wanted.mean(0) - weight @ mean)
    torch.save(net.state_dict(), "net.pth")
    return ("inside_net:Net", "--weights", "net.pth", "--data", "digits")


FEW = ("--images", "4", "--attacks", "fgsm", "--draws", "2")


def test_a_wrong_guess_is_detected(inside, called):
    done = called("convert", *inside, "-o", "out.safetensors")
    assert done.status == 0, done.err
    assert "Pixels are normalised before the network: mean 0.305" in done.err
    assert "(GUESSED from the statistics of digits)" in done.err
    assert "probably wrong: with --no-normalize the network is right on" in done.err


def test_unnormalised_pixels(inside, called, cli):
    done = called("convert", *inside, "-o", "out.safetensors", "--no-normalize")
    assert "Pixels go into the network as they are, in [0, 1] (as given)" in done.err and "warning" not in done.err
    assert read_header("out.safetensors").normalize is None
    checked = called("check", "out.safetensors", "--data", "digits", *FEW, "--trust-factory")
    assert "Pixels go into out.safetensors as they are, in [0, 1]" in checked.err
    right = cli("check", *inside, "--no-normalize", "--images", "200", "--attacks", "fgsm", "--json", "-q", status=4)
    wrong = cli("check", *inside, "--images", "200", "--attacks", "fgsm", "--json", "-q", status=3)
    assert clean(right) > clean(wrong) + 0.05
    assert right["about"]["normalisation"].endswith("(as given)") and "GUESSED" in wrong["about"]["normalisation"]
    assert right["architecture"] == "Net"


def clean(report):
    return next(r["accuracy"] for r in report["results"] if r["id"] == "clean")


def test_constants_are_saved_in_the_file(called):
    given = ("--mean", "0.25,0.5,0.75", "--std", "1/4,0.5,1", "--data", "digits")
    done = called("convert", "timm:test_resnet", *given, "-o", "out.safetensors")
    assert "mean 0.25, 0.5, 0.75, std 0.25, 0.5, 1 (as given)" in done.err, done.err
    assert read_header("out.safetensors").normalize == {"mean": [0.25, 0.5, 0.75], "std": [0.25, 0.5, 1.0]}
    checked = called("check", "out.safetensors", "--data", "digits", *FEW)
    assert "Pixels are normalised inside out.safetensors: mean 0.25, 0.5, 0.75, std 0.25, 0.5, 1" in checked.err


def test_a_run_saves_constants_in_its_recipe(called):
    given = ("finetune", "--recipe", "smoke", "--set", "train.epochs=1", "--no-check")
    assert called(*given, "-o", "one", "--mean", "0.25", "--std", "0.5").status == 0
    assert read_header("one/model.safetensors").normalize == {"mean": [0.25] * 3, "std": [0.5] * 3}
    assert recipe.load("one/recipe.toml").data.mean == (0.25,) * 3
    done = called("finetune", "--recipe", "one/recipe.toml", "--set", "train.epochs=1", "--no-check", "-o", "two")
    assert "mean 0.25, 0.25, 0.25, std 0.5, 0.5, 0.5 (as given)" in done.err
    assert called(*given, "-o", "three", "--no-normalize").status == 0
    assert recipe.load("three/recipe.toml").data.std == (1.0,) * 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mean", "0.5"), "--mean and --std go together"),
        (("--mean", "0.5", "--std", "0.5,0.5"), "--mean has 1 numbers and --std 2"),
        (("--mean", "0.5", "--std", "0.5", "--no-normalize"), "contradict each other"),
        (("--mean", "123.7,116.3,103.5", "--std", "58,57,57"), "divide by 255"),
        (("--mean", "a", "--std", "0.5"), "'a' is not a list of numbers"),
        (("--mean", "0.5", "--std", "0"), "has a zero"),
        (("--mean", "0.5,0.5", "--std", "0.5,0.5"), "2 numbers for mean and std, but the images have 3 channels"),
        (("--mean", "nan", "--std", "0.5"), "not a list of numbers"),
    ],
)
def test_invalid_constants(options, said, called):
    done = called("convert", "timm:test_resnet", "--data", "digits", *options)
    assert done.status in (1, 2) and said in " ".join(done.err.split()), done.err


@pytest.mark.parametrize("command", ["check", "certify", "compare", "finetune"])
def test_a_file_is_used_unchanged(command, called):
    assert called("convert", "timm:test_resnet", "--data", "digits", "-o", "net.safetensors").status == 0
    given = {"finetune": ("--recipe", "smoke", "--model", "net.safetensors")}.get(command, ("net.safetensors",))
    done = called(command, *given, "--data", "digits", "--mean", "0.5", "--std", "0.5")
    assert done.status == 2 and "net.safetensors is used as it is" in " ".join(done.err.split()), done.err


def test_chance_accuracy_is_remarked_upon(cli):
    found = cli("check", "timm:test_resnet", "--data", "digits", *FEW, "--json", "-q", status=4)
    assert any("near chance (10.0%). Is the normalisation right" in remark for remark in found["remarks"])


def test_a_weights_key_can_be_chosen(called):
    import timm

    raw, average = (timm.create_model("test_resnet", num_classes=10).state_dict() for _ in range(2))
    torch.save({"state_dict": raw, "state_dict_ema": average}, "net.pth.tar")
    given = ("timm:test_resnet", "--data", "digits", "--weights", "net.pth.tar", "--method", "none", "--force")
    done = called("convert", *given, "-o", "a.safetensors")
    assert "…); took 'state_dict_ema' of 'state_dict_ema', 'state_dict'" in done.err
    done = called("convert", *given, "-o", "a.safetensors", "--weights-key", "state_dict")
    assert done.status == 0 and "took" not in done.err
    assert "no file is given" in called("convert", "timm:test_resnet", "--weights-key", "state_dict").err
