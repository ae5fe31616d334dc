"""The model card that goes with a checkpoint: what it is, how to load it, what is known of its robustness."""

from __future__ import annotations

from perturbify import methods, zoo
from perturbify.header import Header
from perturbify.text import counted, fraction, noise_in_words, times


def model_card(header: Header) -> str:
    """Writes a checkpoint's card as Markdown, from nothing but its header."""
    model = header.model or {"name": header.source_class, "weights": "of the user"}
    noise = "none (a baseline)"
    name = header.method or "learn2perturb"
    method = methods.get(name) if name in methods.names() else None
    source = f" ({method.source})" if method is not None and method.source else ""
    opening = [f"A network without noise, as a baseline for one with, made with perturbify; trained by {name}{source}."]
    if header.config is not None:
        opening = [
            f"A network with noise for the defence {name}{source}, made with perturbify.",
            "The noise stays on at inference: two passes over one image give two answers.",
        ]
        if method is not None and method.draws > 1:
            opening.append(f"`perturbify.predict(model, images)` averages {method.draws} of them, as the defence does.")
        start, floor = header.config["theta_init"], header.config["theta_min"]
        said = start if isinstance(start, str) else f"{start:g}"
        noise = f"{counted(len(header.sites), 'site')}, {noise_in_words(header.config)}, θ₀ = {said}"
        noise += "" if floor is None else f", θ_min = {floor:g}"
    inputs = ", ".join(f"{name}: {times(tuple(about['shape']))}" for name, about in header.inputs.items())
    lines = [
        f"# {model['name']}, {name if header.trained else f'converted for {name}, not trained'}",
        "",
        *opening,
        "",
        "```python",
        "import perturbify",
        _loading(header),
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| network | `{model['name']}` |",
        f"| started from | {model['weights']} weights |",
        f"| noise | {noise} |",
        f"| input | {inputs} |",
        f"| normalisation inside | {'yes' if header.normalize else 'no'} |",
        f"| classes | {len(header.classes) if header.classes else 'not recorded'} |",
        f"| trained | {counted(header.trained.get('epochs', 0), 'epoch')} |",
        f"| versions | {', '.join(f'{k} {v}' for k, v in header.versions.items())} |",
        "",
        "## Robustness",
        "",
        *_robustness(header),
        "",
    ]
    if header.recipe:
        lines += ["## Recipe", "", "```toml", header.recipe.strip(), "```", ""]
    return "\n".join(lines)


def _loading(header: Header) -> str:
    """The line of Python that reads the file."""
    spec = header.spec()
    needs = ""
    if spec is None:
        needs = ", model=network"
    elif spec.name.split(":")[0] not in zoo.LIBRARIES:
        needs = ", trust_factory=True"
    facts = ["eval mode"]
    facts += ["noise on"] if header.config is not None else []
    facts += ["pixels in [0, 1]"] if header.normalize is not None else []
    facts += [f"network: a {header.source_class}"] if spec is None else []
    return f'model = perturbify.load("model.safetensors"{needs})   # {"; ".join(facts)}'


def _robustness(header: Header) -> list[str]:
    if header.check is None:
        return ["Not checked yet: `perturbify check model.safetensors --data …`."]
    check = header.check
    verdicts = check["criteria"]
    failed = [name for name, verdict in verdicts.items() if verdict == "fail"]
    undecided = [name for name, verdict in verdicts.items() if verdict == "undecided"]
    lines = [
        f"Accuracy in percent on {check['n']} test images of {check['dataset']} with its 95% interval (bootstrap over "
        f"images). l∞ attacks within ε = {fraction(check['epsilon'])} on pixels in [0, 1]; crafted first, then scored "
        "on fresh draws of the noise.",
        "",
        "| attack | crafted on | noise while scoring | draws | accuracy |",
        "|---|---|---|---|---|",
    ]
    for row in check["rows"]:
        low, high = row["interval"]
        accuracy = f"{100 * row['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        attack = row["attack"] if row["network"] == "itself" else f"{row['attack']} on {row['network']}"
        lines.append(f"| {attack} | {row['crafted_on']} | {row['noise']} | {row['draws']} | {accuracy} |")
    passed = len(verdicts) - len(failed) - len(undecided)
    lines += ["", f"Sanity criteria: {passed} pass, {len(failed)} fail, {len(undecided)} are undecided."]
    lines += [f"Failed: {', '.join(failed)}."] if failed else []
    lines += [f"Undecided: {', '.join(undecided)}."] if undecided else []
    return lines
