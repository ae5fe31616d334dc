"""A table before anything has been run, and what it says of images without figures."""

from dataclasses import replace

import pytest

from perturbify import data as datasets
from perturbify.reproduction import Outcome, Reproduction, jobs
from perturbify.reproduction.paper import TABLES
from perturbify.reproduction.report import SUPPLEMENT, to_dict, to_markdown, to_text


def begun(asked, data):
    return [Outcome(job, data) for job in jobs(asked)]


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_of_the_paper_is_printed(name, digits):
    asked = Reproduction(name)
    page, text = (write(asked, begun(asked, digits)) for write in (to_markdown, to_text))
    for cells in TABLES[name].figures.values():
        for cell in cells.values():
            assert f"| {cell.text} |" in page and cell.text in text
    for remark in TABLES[name].remarks:
        assert f"- {remark}" in page and f"- {remark}" in text
    for written in (page, text):
        assert "\nWorst case: every image under the l∞ attack within ε that leaves the lowest accuracy, " in written
    found = to_dict(asked, begun(asked, digits))
    assert not found["complete"]
    assert found["remarks"] == list(TABLES[name].remarks)
    theirs = [f["paper"] for row in found["rows"] for f in row["figures"] if f["paper"] is not None]
    assert len(theirs) == sum(map(len, TABLES[name].figures.values()))


def test_cifar_100_has_no_figures_from_the_paper(digits):
    asked = Reproduction("table1", data="cifar100")
    outcomes = begun(asked, replace(digits, name="cifar100"))
    page = to_markdown(asked, outcomes)
    assert f"- {SUPPLEMENT}" in page
    rows = [line for line in page.splitlines() if line.startswith("| ResNet")]
    assert len(rows) == 12
    assert all(row.endswith("| – | – | – |") for row in rows)
    assert all(f["paper"] is None for row in to_dict(asked, outcomes)["rows"] for f in row["figures"])


def test_a_figures_epsilons_are_in_the_head(digits):
    asked = Reproduction("fig2")
    head = to_markdown(asked, begun(asked, digits)).splitlines()[2]
    points = [f"FGSM, ε = {n}/255" for n in (2, 4, 6, 8, 10, 12, 16)]
    assert (
        head
        == f"| network | method | epochs | n | clean | {' | '.join(points)} | EOT-PGD-7 | worst case | paper's FGSM |"
    )
