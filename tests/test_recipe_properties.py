"""Any recipe there can be: through TOML and back it is the same, and no key is misspelt unnoticed."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from perturbify import recipe
from perturbify.errors import RecipeError, nearest
from perturbify.settings import (
    AttackSettings,
    CheckSettings,
    DataSettings,
    OptimizerSettings,
    Recipe,
    TrainSettings,
)
from perturbify.surgery.config import PerturbConfig

SECTIONS = {name: kind for name, kind in get_type_hints(Recipe).items() if is_dataclass(kind)}

# A busy machine is no mistake of ours.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def floats(least: float = 0.0, most: float = 1e6, *, above: bool = False) -> st.SearchStrategy[float]:
    return st.floats(least, most, exclude_min=above)


counts = st.integers(1, 10**6)
sides = st.integers(1, 10**4)
words = st.text(st.characters(codec="utf-8"), max_size=12)
pixels = floats(most=1.0, above=True)
values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def data_settings(draw: st.DrawFn) -> DataSettings:
    channels = draw(st.integers(0, 4))
    mean, std = None, None
    if channels:
        mean = draw(st.tuples(*[floats(most=1.0)] * channels))
        std = draw(st.tuples(*[floats(above=True)] * channels))
    optional = st.none() | counts
    return DataSettings(
        draw(words),
        draw(st.none() | words),
        draw(st.none() | sides),
        draw(st.none() | words),
        draw(optional),
        draw(optional),
        draw(st.integers(0, 256)),
        draw(st.booleans()),
        mean,
        std,
    )


@st.composite
def perturb_configs(draw: st.DrawFn) -> PerturbConfig:
    theta_min = draw(floats(above=True))
    globs = st.lists(words, max_size=3).map(tuple)
    return PerturbConfig(
        grain=draw(st.sampled_from(["element", "channel", "layer"])),
        draw_per=draw(st.sampled_from(["sample", "batch"])),
        theta_init=draw(floats(theta_min)),
        theta_min=theta_min,
        include=draw(globs),
        exclude=draw(globs),
        theta_per=draw(st.sampled_from(["call", "module"])),
    )


@st.composite
def train_settings(draw: st.DrawFn) -> TrainSettings:
    epochs = draw(counts)
    return TrainSettings(
        epochs=epochs,
        batch_size=draw(counts),
        warmup_epochs=draw(st.integers(0, epochs)),
        w_steps=draw(counts),
        theta_steps=draw(counts),
        joint=draw(st.booleans()),
        gamma=draw(floats()),
        held_out_every=draw(st.integers(1, 50)),
        save_minutes=draw(floats(above=True)),
    )


optimizers = st.builds(
    OptimizerSettings,
    lr=floats(),
    momentum=st.floats(0, 1, exclude_min=True, exclude_max=True),
    nesterov=st.booleans(),
    weight_decay=floats(),
    milestones=st.sets(st.integers(0, 1000), max_size=4).map(lambda epochs: tuple(sorted(epochs))),
    decay=pixels,
)
recipes = st.builds(
    Recipe,
    name=st.just("mine"),
    model=words,
    model_args=st.dictionaries(words, values, max_size=3),
    method=st.sampled_from(["learn2perturb", "learn2perturb-r", "vanilla", "none"]),
    seed=st.integers(0, 2**32 - 1),
    data=data_settings(),
    perturb=perturb_configs(),
    train=train_settings(),
    optimizer=optimizers,
    theta_optimizer=optimizers,
    attack=st.builds(AttackSettings, pixels, pixels, counts, st.booleans(), floats(most=1.0), counts),
    check=st.builds(CheckSettings, counts, pixels, pixels, counts, counts, counts),
)


@patient
@given(recipes)
def test_a_recipe_survives_toml(made: Recipe) -> None:
    written = recipe.to_toml(made)
    assert recipe.from_toml(written, "mine") == made
    for section, kind in SECTIONS.items():
        assert f"\n[{section}]\n" in written
        assert all(f"\n{f.name} = " in written or f"\n# {f.name} is not set" in written for f in fields(kind))


def keys_by_section() -> dict[str, list[str]]:
    return {section: [f.name for f in fields(kind)] for section, kind in SECTIONS.items()}


@patient
@given(st.data())
def test_a_misspelt_key_suggests_the_right_one(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(sorted(SECTIONS)))
    own = keys_by_section()[section]
    right = data.draw(st.sampled_from([key for key in own if len(key) > 3]))
    at = data.draw(st.integers(0, len(right) - 1))
    wrong = right[:at] + data.draw(st.sampled_from(["", "_", "x"])) + right[at + 1 :]
    assume(all(wrong not in keys for keys in keys_by_section().values()))
    with pytest.raises(RecipeError) as caught:
        recipe.load("digits", {f"{section}.{wrong}": 1})
    (mistake,) = str(caught.value).splitlines()[1:]
    assert mistake == f"  {section}.{wrong} is unknown. {nearest(wrong, own, limit=2)}"
    assert repr(right) in mistake


@patient
@given(st.sampled_from(["", *sorted(SECTIONS)]), st.from_regex(r"[a-z_]{1,12}", fullmatch=True), values)
def test_any_unknown_key_is_reported(section: str, key: str, value: Any) -> None:
    known = keys_by_section().get(section, [f.name for f in fields(Recipe) if f.name != "name"])
    assume(key not in known)
    path = f"{section}.{key}".lstrip(".")
    with pytest.raises(RecipeError) as caught:
        recipe.load("digits", {path: value})
    (mistake,) = str(caught.value).splitlines()[1:]
    assert mistake.startswith(f"  {path} is unknown")
