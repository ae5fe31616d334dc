"""``perturbify inspect``: what a file holds, its sites, its θ."""

from __future__ import annotations

from typing import Any

import click

from perturbify.cli.console import Console
from perturbify.cli.options import output_options, wide_option
from perturbify.escape import terminal
from perturbify.text import counted, input_in_words, listed, noise_in_words, table, times


@click.command(short_help="Show what a file holds, and its θ.")
@click.argument("file", metavar="FILE|RUN", type=click.Path())
@click.option("--data", "data_name", help="Measure what θ is added to on these images (training split, noise off).")
@click.option("--trust-factory", is_flag=True, help="With --data: run the factory that FILE names.")
@wide_option
@output_options
def inspect(file: str, data_name: str | None, trust_factory: bool, as_json: bool, quiet: bool) -> None:
    """Show what FILE holds: its network, its noise sites with the statistics of θ, its last check.

    RUN stands for the model of a finished run. Nothing in the file is run, and the network is not built, except with
    --data: then each site also shows the ratio of its noise to what it is added to.

    \b
      perturbify inspect model.safetensors
      perturbify inspect model.safetensors --data cifar10
    """
    from perturbify.cli import models, spelling

    file = models.file_of(file)
    spelling.data(data_name)

    from dataclasses import asdict

    from perturbify import checkpoint

    console = Console(quiet=quiet, as_json=as_json)
    header, contents = checkpoint.read(file)
    keys = [f"{site['path']}.theta" for site in header.sites]
    thetas = [contents.tensors[header.aliases.get(key, key)] for key in keys]
    sites = [site | _statistics(theta) for site, theta in zip(header.sites, thetas, strict=True)]
    if data_name is not None:
        with console.aside():
            ratios = _relative(file, data_name, trust_factory)
        sites = [site | {"relative": ratios.get(site["name"])} for site in sites]
    values = asdict(header) | {"sealed": contents.sealed, "sites": sites}
    console.result(_text(values, sites, console.width), values)


def _relative(file: str, data_name: str, trust_factory: bool) -> dict[str, float | None]:
    """Ratio of the standard deviations of the noise and of what it is added to, by site, on 256 training images."""
    import math

    from perturbify import checkpoint
    from perturbify import data as datasets
    from perturbify.cli.images import channels_of
    from perturbify.methods.loading import load
    from perturbify.spread import relative_noise

    header = checkpoint.read_header(file)
    images = datasets.suited(datasets.load(data_name, image_size=header.image_size()), channels_of(header))
    pixels, _ = next(images.train.batches(256))
    ratios = relative_noise(load(file, trust_factory=trust_factory), pixels)
    return {site: ratio if math.isfinite(ratio) else None for site, ratio in ratios.items()}


def _statistics(theta: Any) -> dict[str, float]:
    theta = theta.double()
    return {
        "mean": theta.mean().item(),
        "std": theta.std(correction=0).item(),
        "min": theta.min().item(),
        "max": theta.max().item(),
    }


def _text(header: dict[str, Any], sites: list[dict[str, Any]], width: int | None) -> str:
    model = header["model"] or {"name": header["source_class"], "kwargs": {}, "weights": "unknown"}
    config = header["config"]
    facts = [
        ("network", f"{model['name']} {model['kwargs'] or ''}".strip()),
        ("weights from", model["weights"]),
        ("input", ", ".join(f"{name} {input_in_words(about)}" for name, about in header["inputs"].items())),
        ("normalisation", "inside" if header["normalize"] else "none inside"),
        ("classes", listed(header["classes"]) if header["classes"] else "not recorded"),
        ("method", header["method"] or "not recorded"),
        ("noise", noise_in_words(config)),
        ("trained", counted(header["trained"].get("epochs", 0), "epoch")),
        ("seal", "holds" if header["sealed"] else f"none: files of format {header['format']} have no seal"),
        ("written with", ", ".join(f"{k} {v}" for k, v in header["versions"].items())),
    ]
    check = header["check"]
    if check is not None:
        from perturbify.model_card import checked

        facts.append(("last check", checked(check)))
    longest = max(len(name) for name, _ in facts)
    lines = [f"{name:{longest}}  {terminal(value)}" for name, value in facts]
    if sites:
        from perturbify.surgery.config import WEIGHT_SITES

        keys = ("mean", "std", "min", "max")
        measured = "relative" in sites[0]
        name = "log σ" if header["config"].get("scale") == "posterior" else "θ"
        rows = [
            (
                "site",
                name,
                *keys,
                *(
                    ["noise / weight" if header["config"]["site"] in WEIGHT_SITES else "noise / activation"]
                    if measured
                    else []
                ),
            )
        ]
        for s in sites:
            row = [s["name"], times(s["theta_shape"]), *(f"{s[k]:.4f}" for k in keys)]
            if measured:
                row.append("-" if s["relative"] is None else f"{s['relative']:.3f}")
            rows.append(tuple(row))
        lines += ["", table(rows, width, ("std", "min", "max", name))]
    return "\n".join(lines)
