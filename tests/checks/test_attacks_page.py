"""What docs/attacks.md shows runs as it stands."""

import re
import runpy
from pathlib import Path

import pytest
from networks import masks

from perturbify import check
from perturbify.attacks import registry
from perturbify.checks import PRESETS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "attacks.md"


def test_the_page_runs(monkeypatch, capsys):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    net, images = masks.honest(), tuple(part[:24] for part in masks.digits())
    example = runpy.run_path(str(ROOT / "examples" / "own_attack.py"), run_name="own_attack")
    space = {"Brightness": example["Brightness"], "model": net, "images": images}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    exec(blocks[0], space)
    added = space["report"]
    *others, result = added.results
    assert (result.attack, result.role) == ("Brightness", "black box")
    assert result.settings == {"epsilon": 8 / 255, "tries": 8}
    assert result.distance["linf"] == pytest.approx(8 / 255, abs=1e-5) and result in added.within
    assert [r.answers for r in others] == [r.answers for r in check(net, images).results]
    assert str(result.accuracy) in capsys.readouterr().out
    exec(blocks[1], space)
    named = space["report"]
    assert [r.id for r in named.results] == ["clean", "fgsm", "pgd", "brightness"]
    assert named.result("brightness").answers == result.answers
    assert named.preset == "custom" and "brightness" not in PRESETS["quick"].attacks
