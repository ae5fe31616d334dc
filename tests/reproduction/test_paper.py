"""The paper's figures, and the jobs that follow from them."""

import re
from pathlib import Path

import pytest

from perturbify import methods, zoo
from perturbify import recipe as recipes
from perturbify.errors import PerturbifyError
from perturbify.reproduction import Reproduction, jobs
from perturbify.reproduction.paper import NETWORKS, TABLES, table

METHODS_PAGE = Path(__file__).parents[2].parent / "shared" / "METHODS.md"


def test_figures_by_hand():
    assert TABLES["table1"].figures["cifar_resnet20", "none"] == {"clean": 92.10, "PGD": 0.0, "FGSM": 14.10}
    assert TABLES["table1"].figures["cifar_resnet18", "learn2perturb"] == {"clean": 85.30, "PGD": 56.06, "FGSM": 62.43}
    assert TABLES["table1"].figures["cifar_resnet56", "learn2perturb-r"]["PGD"] == 53.30
    assert TABLES["table2"].figures["cifar_resnet20", "adv-bnn"] == {"clean": 65.76, "PGD": 44.95, "FGSM": 51.58}
    assert TABLES["table2"].figures["cifar_resnet18", "pni"]["clean"] == 87.21
    third = TABLES["table3"].figures["cifar_resnet18", "pni"]
    assert third == {
        **{"C&W, κ = 0": 66.9, "C&W, κ = 0.1": 66.1, "C&W, κ = 1": 34.0, "C&W, κ = 2": 16.0, "C&W, κ = 5": 0.8},
        "EOT-PGD": 48.65,
    }
    assert TABLES["table3"].figures["cifar_resnet18", "learn2perturb"]["EOT-PGD"] == 53.34


@pytest.mark.skipif(not METHODS_PAGE.is_file(), reason=f"needs {METHODS_PAGE}")
def test_figures_against_the_page():
    page = METHODS_PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (ResNet-V\S+) \|(.*)\|$", page[page.index("Table 1") :], re.M)
    for called, cells in rows:
        network = next(name for name, theirs in NETWORKS.items() if theirs == called)
        for method, cell in zip(TABLES["table1"].methods, cells.split("|"), strict=True):
            theirs = [float(number) for number in cell.split("/")]
            assert list(TABLES["table1"].figures[network, method].values()) == theirs
    assert len(rows) == 3
    second = page[page.index("Table 2") : page.index("Table 3")]
    theirs = re.findall(r"(\d+\.\d+)/(\d+\.\d+)/(\d+\.\d+)", second)
    ours = list(TABLES["table2"].figures.values())
    assert [list(map(float, row)) for row in theirs] == [list(row.values()) for row in ours]


def test_the_names_exist():
    for paper in TABLES.values():
        assert set(paper.methods) <= set(methods.names())
        assert all(zoo.resolve(name) == f"perturbify:{name}" for name in paper.networks)


def test_the_papers_own_recipes():
    found = jobs(Reproduction("table1")) + jobs(Reproduction("table2"))
    assert len(found) == 18
    for job in found:
        assert job.why is None
        assert (job.recipe.model, job.recipe.method) == (job.network, job.method)
        assert job.recipe.train.epochs == {"pni": 160, "adv-bnn": 200}.get(job.method, 350)
        assert (job.plan.epsilon, job.plan.step_size, job.plan.steps) == (8 / 255, 0.01, 7)
        assert job.plan.attacks == ("fgsm", "pgd", "margin", "eot")
    by_name = {job.name: job for job in found}
    assert by_name["cifar_resnet20-adv-bnn"].recipe.optimizer.kind == "adam"
    assert by_name["cifar_resnet20-adv-bnn"].plan.draws == 4  # answers that are means of 50 draws already
    assert by_name["cifar_resnet20-pni"].plan.draws == 20


def test_one_schedule_for_all():
    wanted = Reproduction("table2", 3, "cifar10_short", seed=5)
    for job in jobs(wanted):
        assert job.recipe.name == "cifar10_short"
        assert (job.recipe.train.epochs, job.recipe.optimizer.lr, job.recipe.seed) == (3, 0.05, 5)
        assert (job.recipe.method, job.recipe.perturb) == (job.method, methods.get(job.method).perturb)
        assert job.original.train.epochs > 100


def test_table_3_asks_for_what_the_paper_has():
    (job,) = jobs(Reproduction("table3", methods=("learn2perturb",)))
    assert job.network == "cifar_resnet18"
    assert (job.plan.attacks, job.plan.confidences) == (("margin", "cw", "eot"), (0.0, 0.1, 1.0, 2.0, 5.0))
    assert (job.plan.eot_draws, job.plan.few, job.plan.images) == (80, 100, 1000)
    (fewer,) = jobs(Reproduction("table3", methods=("pni",), images=20))
    assert (fewer.plan.few, fewer.plan.images) == (20, 20)


def test_a_method_without_a_recipe_says_so(monkeypatch):
    monkeypatch.setattr(recipes, "names", lambda: ("cifar10",))
    first, *_, last = jobs(Reproduction("table1", networks=("cifar_resnet20",)))
    assert first.recipe is None
    assert "no recipe 'cifar10_none'" in first.why
    assert last.why is None


def test_order_is_the_papers_and_choices_are_checked():
    chosen = Reproduction("table1", networks=("cifar_resnet18", "cifar_resnet20"), methods=("learn2perturb", "none"))
    assert [job.name for job in jobs(chosen)] == [
        *("cifar_resnet20-none", "cifar_resnet20-learn2perturb"),
        *("cifar_resnet18-none", "cifar_resnet18-learn2perturb"),
    ]
    with pytest.raises(PerturbifyError, match=r"There is no method 'pni' in table1\. There are none, vanilla"):
        Reproduction("table1", methods=("pni",))
    with pytest.raises(PerturbifyError, match="There is no network 'resnet18' in table2"):
        Reproduction("table2", networks=("resnet18",))
    with pytest.raises(PerturbifyError, match="There is no network 'cifar_resnet56' in table1"):
        Reproduction("table1", networks=("cifar_resnet20",), weights={"cifar_resnet56": "x"})
    with pytest.raises(PerturbifyError, match="There is no table 'table4'"):
        table("table4")
    with pytest.raises(PerturbifyError, match="There is no recipe 'cifar11'"):
        jobs(Reproduction("table1", equal_schedule="cifar11"))
