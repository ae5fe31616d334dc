"""Attacks that run compiled find what they find uncompiled."""

import shutil

import pytest
import torch
from networks.greys import PLAN, Brightness, brightness, noisy
from networks.untouched import untouched
from torch._inductor import config as inductor

from perturbify import check

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile wants a C++ compiler on the CPU")


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def figures(report):
    return {(r.attack, r.crafted_on, r.noise): r.accuracy for r in report.rows}


def test_the_figures_are_the_same():
    """Noise of θ = 5 on logits that lie 5 apart where the attack is done: about a coin for each."""
    net, split = noisy(theta=5.0), brightness(far=60, near=60)
    eager = figures(check(net, split, PLAN))
    with untouched(net):
        report = check(net, split, PLAN, compile=True)
    assert not report.remarks
    fast = figures(report)
    assert fast.keys() == eager.keys()
    for trial, accuracy in eager.items():
        assert fast[trial] == pytest.approx(accuracy, abs=0 if trial[2] == "off" else 0.03), trial


def test_where_nothing_can_compile_the_attacks_run_as_they_are(monkeypatch):
    """On a machine without a C++ compiler, for instance."""
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    split = brightness(far=10, near=10)
    report = check(Brightness(), split, PLAN, compile=True)
    assert figures(report) == figures(check(Brightness(), split, PLAN))
    assert len(report.remarks) == 1 and report.remarks[0].startswith("The attacks ran uncompiled, for torch.compile")
