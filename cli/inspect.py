"""``perturbify inspect``: what a file is, its sites, its θ."""

from __future__ import annotations

from typing import Any

import click

from perturbify.cli.console import Console
from perturbify.cli.options import output_options
from perturbify.text import table, times


@click.command()
@click.argument("file", type=click.Path())
@output_options
def inspect(file: str, as_json: bool, quiet: bool) -> None:
    """Say what FILE is: its network, its noise sites with the statistics of θ, its last check.

    Nothing of the file is run, and the network is not built.
    """
    from dataclasses import asdict
    from pathlib import Path

    from perturbify import checkpoint
    from perturbify.errors import CheckpointError

    console = Console(quiet=quiet, as_json=as_json)
    metadata, tensors = checkpoint.read_file(Path(file))
    header = checkpoint.header_of(metadata, Path(file))
    keys = [f"{site['path']}.theta" for site in header.sites]
    thetas = [tensors.get(header.aliases.get(key, key)) for key in keys]
    missing = [key for key, theta in zip(keys, thetas, strict=True) if theta is None]
    if missing:
        raise CheckpointError(f"{file} names the tensor {missing[0]} and does not hold it.", "Fetch it again.")
    sites = [site | _statistics(theta) for site, theta in zip(header.sites, thetas, strict=True)]
    console.result(_text(asdict(header), sites), asdict(header) | {"sites": sites})


def _statistics(theta: Any) -> dict[str, float]:
    theta = theta.double()
    return {
        "mean": theta.mean().item(),
        "std": theta.std(correction=0).item(),
        "min": theta.min().item(),
        "max": theta.max().item(),
    }


def _text(header: dict[str, Any], sites: list[dict[str, Any]]) -> str:
    model = header["model"] or {"name": header["source_class"], "kwargs": {}, "weights": "unknown"}
    config = header["config"]
    facts = [
        ("network", f"{model['name']} {model['kwargs'] or ''}".strip()),
        ("weights from", model["weights"]),
        ("input", ", ".join(f"{n} {times(i['shape'])}" for n, i in header["inputs"].items())),
        ("normalisation", "inside" if header["normalize"] else "none inside"),
        ("classes", ", ".join(header["classes"]) if header["classes"] else "not recorded"),
        ("noise", "none" if config is None else f"grain {config['grain']}, a draw per {config['share']}"),
        ("method", header["method"] or "converted, not trained"),
        ("trained", f"{header['trained'].get('epochs', 0)} epochs"),
        ("written with", ", ".join(f"{k} {v}" for k, v in header["versions"].items())),
    ]
    check = header["check"]
    if check is not None:
        facts.append(("last check", f"{check['n']} images of {check['dataset']}, passed: {check['passed']}"))
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:{width}}  {value}" for name, value in facts]
    if sites:
        rows = [("site", "θ", "mean", "std", "min", "max")]
        rows += [
            (s["name"], times(s["theta_shape"]), *(f"{s[k]:.4f}" for k in ("mean", "std", "min", "max"))) for s in sites
        ]
        lines += ["", table(rows)]
    return "\n".join(lines)
