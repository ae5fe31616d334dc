"""Attacks that run compiled find what they find uncompiled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks.greys import PLAN, brightness, noisy
from networks.untouched import untouched

from perturbify import check

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile wants a C++ compiler on the CPU")


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def figures(report):
    return {(r.id, r.noise): r.accuracy for r in report.results}


@pytest.mark.slow
def test_the_figures_are_the_same():
    """Noise of θ = 5 on logits that lie 5 apart where the attack is done: about a coin for each."""
    net, split = noisy(theta=5.0), brightness(far=60, near=60)
    uncompiled = check(net, split, PLAN)
    eager = figures(uncompiled)
    with untouched(net):
        report = check(net, split, PLAN, compile=True)
    assert report.remarks == uncompiled.remarks  # and none on compiling
    assert not any("compile" in remark for remark in report.remarks)
    fast = figures(report)
    assert fast.keys() == eager.keys()
    for trial, accuracy in eager.items():
        assert fast[trial] == pytest.approx(accuracy, abs=0 if trial[1] == "off" else 0.03), trial


WITHOUT_A_COMPILER = """
from networks.greys import PLAN, Brightness, brightness
from perturbify import check

def figures(report):
    return [(r.id, r.accuracy) for r in report.results]

split = brightness(far=10, near=10)
report = check(Brightness(), split, PLAN, compile=True)
assert figures(report) == figures(check(Brightness(), split, PLAN))
print(*report.remarks, sep="\\n")
"""


def test_attacks_run_uncompiled_where_compiling_fails(tmp_path):
    """In a process of its own: what a failed compilation leaves set in torch would reach other tests."""
    tests = Path(__file__).parents[1]
    env = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(tests)}
    run = subprocess.run([sys.executable, "-c", WITHOUT_A_COMPILER], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (remark,) = run.stdout.splitlines()
    assert remark.startswith("The attacks ran uncompiled because torch.compile")
