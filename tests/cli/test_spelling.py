"""A slip in a name or a path is told within a second of the processor, before torch is imported."""

import os
import subprocess
import sys

import pytest

from perturbify.cli import spelling

RUN = """
import sys
from perturbify.cli.main import run
status = run(sys.argv[1:])
assert not {"torch", "timm", "torchvision", "numpy"} & set(sys.modules), "imported"
sys.exit(status)
"""
SLIPS = [
    (["finetune", "--recipe", "digitz"], 2, "Did you mean 'digits'?"),
    (["finetune", "--recipe", "digits", "--set", "train.epoks=3"], 2, "Did you mean 'epochs'"),
    (["finetune", "--recipe", "digits", "--set", "train.epochs=-3"], 2, "must be at least 1"),
    (["finetune", "--recipe", "digits", "--method", "lern2perturb"], 2, "'learn2perturb'"),
    (["finetune", "--recipe", "digits", "--model", "resnet188"], 1, "'timm:resnet18'"),
    (["finetune", "--recipe", "digits", "--model", "mine.pth"], 1, "There is no file mine.pth."),
    (["finetune", "--recipe", "digits", "--data", "images.npz"], 1, "file or folder 'images.npz'"),
    (["finetune", "--recipe", "digits", "--device", "cudda:0"], 1, "Did you mean 'cuda'"),
    (["finetune", "--resume", "nowhere"], 1, "nowhere holds no run"),
    (["check", "modle.safetensors"], 1, "Did you mean 'model.safetensors'?"),
    (["check", "cifar_resnet2", "--data", "digits"], 1, "'perturbify:cifar_resnet20'"),
    (["check", "torchvision:resnet19"], 1, "'torchvision:resnet18'"),
    (["check", "model.safetensors", "--attacks", "pgd,fgsmm"], 2, "Did you mean 'fgsm'?"),
    (["check", "model.safetensors", "--against", "nowhere"], 1, "There is no file nowhere."),
    (["check", "resnet18", "--data", "digits", "--weights", "no.pth"], 1, "no weights file 'no.pth'"),
    (["compare", "plain=modle.safetensors", "--data", "digits"], 1, "'model.safetensors'"),
    (["compare", "model.safetensors", "--data", "digitz"], 1, "Did you mean 'digits'?"),
    (["certify", "model.safetensors", "--data", "digitz"], 1, "Did you mean 'digits'?"),
    (["convert", "nowhere.models:build"], 1, "There is no module 'nowhere'"),
    (["convert", "resnet18", "--method", "pnii"], 1, "Did you mean 'pni'"),
    (["inspect", "modle.safetensors"], 1, "'model.safetensors'"),
    (["verify", "modle.safetensors"], 1, "'model.safetensors'"),
    (["plot", "nowhere"], 1, "nowhere holds no run"),
    (["reproduce", "table1", "--budget", "1", "--methods", "vanila"], 2, "'vanila'"),
    (["reproduce", "table1", "--budget", "1", "--equal-schedule", "cifar10_shrt"], 2, "'cifar10_short'"),
]


@pytest.mark.parametrize(
    ("arguments", "status", "said"), SLIPS, ids=lambda a: " ".join(a) if isinstance(a, list) else ""
)
def test_a_typo_is_reported_without_importing_torch(arguments, status, said, tmp_path):
    (tmp_path / "model.safetensors").touch()
    before = os.times()
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=tmp_path, capture_output=True, text=True)
    after = os.times()
    assert "imported" not in done.stderr
    assert said in done.stderr and "mistake in perturbify" not in done.stderr
    assert done.returncode == status
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 1.5


def test_the_lists_match_the_packages():
    from perturbify.checks import cases
    from perturbify.data import dataset_names
    from perturbify.data.timm_datasets import SCHEMES
    from perturbify.zoo import names

    assert tuple(cases._FAMILIES) == spelling.ATTACKS
    assert dataset_names() == spelling.DATASETS
    assert set(SCHEMES) == set(spelling.SCHEMES)
    assert set(names.NETWORKS) == set(spelling.NETWORKS)


def test_every_model_name_is_accepted():
    import timm

    from perturbify import zoo

    for name in (*zoo.model_names(), *timm.list_pretrained()):
        spelling.model(name)
        spelling.model(name.rpartition(":")[2])


def test_the_users_own_module_is_found(tmp_path, monkeypatch):
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    spelling.model("mine:net")
    spelling.model("torch.nn:Identity")
