"""The paper's figures, and the jobs that follow from them."""

import pytest

from perturbify import methods, zoo
from perturbify import recipe as recipes
from perturbify.cli.reproduce import TABLES as NAMED
from perturbify.errors import PerturbifyError
from perturbify.numbers import MOST_SEED
from perturbify.reproduction import Reproduction, jobs
from perturbify.reproduction.paper import NETWORKS, TABLES, table


def printed(name, network, method):
    return {attack: cell.text for attack, cell in TABLES[name].figures[network, method].items()}


def test_tables_1_and_2_match_hand_copied_figures():
    assert printed("table1", "cifar_resnet20", "none") == {"clean": "92.10", "PGD": "0.0±0.0", "FGSM": "14.10"}
    assert printed("table1", "cifar_resnet56", "vanilla")["PGD"] == "40.10±0.10"
    assert printed("table1", "cifar_resnet18", "learn2perturb")["PGD"] == "56.06±0.16"
    assert printed("table2", "cifar_resnet32", "adv-bnn") == {
        **{"clean": "62.95±5.63", "PGD": "54.62±0.06", "FGSM": "50.29±2.70"}
    }
    assert printed("table2", "cifar_resnet20_x1.5", "adv-bnn")["PGD"] == "28.07±1.11"
    assert printed("table2", "cifar_resnet20_x4", "pni")["PGD"] == "49.10±0.3"
    assert printed("table2", "cifar_resnet18", "learn2perturb")["PGD"] == "56.06±0.08"
    assert {name: len(TABLES[name].figures) for name in ("table1", "table2")} == {"table1": 12, "table2": 24}


def test_tables_3_and_4_match_hand_copied_figures():
    assert printed("table3", "cifar_resnet18", "pni") == {
        **{
            "C&W, κ = 0": "66.9",
            "C&W, κ = 0.1": "66.1",
            "C&W, κ = 1": "34.0",
            "C&W, κ = 2": "16.0",
            "C&W, κ = 5": "0.8",
        },
        "EOT-PGD": "48.65",
    }
    assert set(printed("table3", "cifar_resnet18", "vanilla").values()) == {"0.0"}
    assert {row: printed("table4", *row) for row in TABLES["table4"].figures} == {
        ("cifar_resnext29_2x64d", "rse"): {"clean": "87.5", "PGD": "40"},
        ("cifar_wrn28_10", "pixeldp"): {"clean": "87", "PGD": "25"},
        ("cifar_resnet56", "adv-bnn"): {"clean": "77.20", "PGD": "54.62±0.06"},
        ("cifar_resnet20_x4", "vanilla"): {"clean": "87", "PGD": "46.1±0.1"},
        ("cifar_resnet20_x4", "pni"): {"clean": "87.7±0.1", "PGD": "49.1±0.3"},
        ("cifar_resnet18", "learn2perturb"): {"clean": "85.3±0.1", "PGD": "56.3±0.1"},
    }
    assert [printed("eot", *row)["EOT-PGD"] for row in TABLES["eot"].figures] == ["48.65", "51.19", "53.34"]


def test_cells_have_a_value_and_a_spread():
    cell = TABLES["table1"].figures["cifar_resnet20", "learn2perturb"]["PGD"]
    assert (cell.value, cell.spread) == (0.5113, 0.0008)
    assert TABLES["table4"].figures["cifar_wrn28_10", "pixeldp"]["PGD"].spread is None


def test_odd_figures_agree_with_their_remarks():
    second, third = TABLES["table2"].figures, TABLES["table1"].figures
    same = [pair for pair, cells in second.items() if cells["PGD"].text == "54.62±0.06"]
    assert same == [
        (f"cifar_resnet{depth}", method) for depth in (32, 44, 56) for method in ("adv-bnn", "learn2perturb")
    ]
    odd = second["cifar_resnet32", "adv-bnn"]
    assert odd["PGD"].value > odd["FGSM"].value
    said = " ".join(TABLES["table2"].remarks)
    for figure in ("54.62±0.06", "ResNet-V1(32)", "50.29", "54.84", "56.06", "56.3"):
        assert figure in said
    assert third["cifar_resnet56", "learn2perturb"]["PGD"].value == 0.5484
    assert all(paper.remarks for paper in TABLES.values())


def test_every_name_exists():
    assert tuple(TABLES) == NAMED
    for name, paper in TABLES.items():
        assert paper.name == name
        assert set(paper.methods) <= set(methods.names())
        assert set(paper.networks) <= set(NETWORKS)
    assert all(zoo.resolve(name) == f"perturbify:{name}" for name in NETWORKS)


def test_recipes_use_each_papers_own_settings():
    found = jobs(Reproduction("table1")) + jobs(Reproduction("table2"))
    assert len(found) == 12 + 24
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


def test_every_table_has_recipes():
    for name in TABLES:
        assert [job.why for job in jobs(Reproduction(name, epochs=2)) if job.why] == []


def test_one_schedule_for_all():
    wanted = Reproduction("table2", 3, "cifar10_short", seeds=(5,))
    for job in jobs(wanted):
        assert job.recipe.name == "cifar10_short"
        assert (job.recipe.train.epochs, job.recipe.optimizer.lr, job.recipe.seed) == (3, 0.05, 5)
        assert (job.recipe.method, job.recipe.perturb) == (
            job.method,
            methods.get(job.method).perturb or job.recipe.perturb,
        )
        assert job.original.train.epochs > 100


def test_recipe_arguments_reach_only_networks_that_accept_them(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(recipes.text("smoke") + '\n[model_args]\npadding = "end"\n', encoding="utf-8")
    found = {job.network: job.recipe.model_args for job in jobs(Reproduction("table1", 1, str(mine)))}
    assert found == {
        "cifar_resnet20": {"padding": "end"},
        "cifar_resnet56": {"padding": "end"},
        "cifar_resnet18": {},
    }


def test_table_3_uses_the_papers_settings():
    (job,) = jobs(Reproduction("table3", methods=("learn2perturb",)))
    assert job.network == "cifar_resnet18"
    assert (job.plan.attacks, job.plan.confidences) == (("margin", "cw", "eot"), (0.0, 0.1, 1.0, 2.0, 5.0))
    assert (job.plan.eot_draws, job.plan.few, job.plan.images) == (80, 100, 1000)
    (fewer,) = jobs(Reproduction("table3", methods=("pni",), images=20))
    assert (fewer.plan.few, fewer.plan.images) == (20, 20)


def test_eot_averages_80_draws_as_the_paper_does():
    found = jobs(Reproduction("eot"))
    assert [(job.method, job.plan.eot_draws) for job in found] == [
        (method, 80) for method in ("pni", "adv-bnn", "learn2perturb")
    ]


def test_a_figure_sweeps_epsilon_over_all_images():
    for name in ("fig2", "fig3"):
        found = jobs(Reproduction(name))
        assert [job.method for job in found] == ["vanilla", "pni", "adv-bnn", "learn2perturb"]
        for job in found:
            assert "sweep" in job.plan.attacks
            assert (job.plan.sweep, job.plan.sanity) == ((0.25, 0.5, 0.75, 1.25, 1.5, 2.0), None)


def test_few_pixel_search_uses_the_papers_budget():
    plans = [jobs(Reproduction("fewpixel", epochs))[0].plan for epochs in (None, 7)]
    assert [(p.population, p.generations) for p in plans] == [(400, 100), (100, 20)]
    assert plans[0].few == 100


def test_each_seed_is_a_separate_run():
    one, several = (
        jobs(Reproduction("table1", networks=("cifar_resnet20",), methods=("none", "vanilla"), seeds=seeds))
        for seeds in ((4,), (0, 4))
    )
    assert [job.name for job in one] == ["cifar_resnet20-none", "cifar_resnet20-vanilla"]
    assert [job.name for job in several] == [
        f"cifar_resnet20-{method}-seed-{seed}" for method in ("none", "vanilla") for seed in (0, 4)
    ]
    assert [(j.seed, j.recipe.seed, j.plan.seed) for j in several] == [(0, 0, 0), (4, 4, 4)] * 2


def test_transfer_uses_the_vanilla_network_of_equal_seed():
    found = jobs(Reproduction("transfer", networks=("cifar_resnet20",), methods=("pni",), seeds=(1, 2)))
    assert [(job.name, job.surrogate) for job in found] == [
        ("cifar_resnet20-vanilla-seed-1", None),
        ("cifar_resnet20-vanilla-seed-2", None),
        ("cifar_resnet20-pni-seed-1", "cifar_resnet20-vanilla-seed-1"),
        ("cifar_resnet20-pni-seed-2", "cifar_resnet20-vanilla-seed-2"),
    ]


def test_a_missing_recipe_is_reported(monkeypatch):
    monkeypatch.setattr(recipes, "names", lambda: ("cifar10",))
    first, *_, last = jobs(Reproduction("table1", networks=("cifar_resnet20",)))
    assert first.recipe is None
    assert "no recipe 'cifar10_none'" in first.why
    assert last.why is None


def test_order_follows_the_paper_and_choices_are_validated():
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
    with pytest.raises(PerturbifyError, match=r"There is no table 'tabel4'\. Did you mean 'table4'"):
        table("tabel4")
    with pytest.raises(PerturbifyError, match="There is no recipe 'cifar11'"):
        jobs(Reproduction("table1", equal_schedule="cifar11"))
    with pytest.raises(
        PerturbifyError, match=r"table4 has no row with rse on cifar_resnet18\. It has rse on cifar_resnext"
    ):
        Reproduction("table4", networks=("cifar_resnet18",), methods=("rse",))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seeds": ()}, "There are no seeds, so nothing would be trained"),
        ({"seeds": (0, 4, 4)}, "The seed 4 is given twice"),
        ({"seeds": (-1,)}, "The seed -1 is not between 0 and"),
        ({"seeds": (MOST_SEED + 1,)}, "is not between 0 and"),
        ({"epochs": 0}, "A budget of 0 epochs trains nothing"),
    ],
)
def test_invalid_numbers(wrong, said):
    with pytest.raises(PerturbifyError, match=said):
        Reproduction("table1", **wrong)
