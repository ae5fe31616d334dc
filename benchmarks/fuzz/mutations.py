"""Honest files, changed at random: in their bytes, in their header, in their tensors, in the text of a recipe."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from perturbify.checkpoint import container

SEAL = container.SEAL
NASTY = "\x1b]0;owned\x07\x1b[2J\r\n\u202e\u2066\u200b\x85\x00```\n<script>|[x](javascript:)"
Header, Tensors = dict[str, Any], dict[str, Tensor]


def values(rng: random.Random) -> Any:
    """A value that is wrong for most places."""
    return rng.choice(
        [
            *(None, True, False, 0, 1, -1, 2, 3, 17, 0.0, -0.5, 1e-300, 1e300, 2**31, 2**63, 2**64, -(2**63), 10**9),
            *(3.0, "", "x", "3", NASTY, "x" * rng.choice([201, 1_001, 100_001]), "1" * 5_000, "../../etc/passwd"),
            *(
                "timm:resnet18",
                "os:system",
                "canary:factory",
                "float16",
                "int64",
                "timm:hf-hub:a/b",
                "timm:local-dir:/",
            ),
            *([], {}, [1], [3, 8, 8], [[]], [None], [NASTY], {"x": 1}, {"": {}}, {NASTY: NASTY}),
            *([3, 2**20, 2**20], [1] * 100, [[[[[[[]]]]]]], {"list": [{"value": None}]}, {"shape": [2**31]}),
            *(["x"] * rng.choice([10, 10_000]), dict.fromkeys(map(str, range(rng.choice([10, 10_000]))), 1)),
            [rng.randint(-3, 300) for _ in range(rng.randint(0, 5))],
        ]
    )


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every entry within a JSON value."""
    found = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((*at, key))
        if isinstance(item, (dict, list)):
            found += places(item, (*at, key))
    return found


def change_json(value: Any, rng: random.Random) -> None:
    """Replaces, removes, adds, duplicates or swaps a random entry of a JSON value."""
    # Half of the time near the top: most entries are the sizes of sites.
    every = places(value)
    path = rng.choice([p for p in every if len(p) <= rng.choice([1, 2, 9])] or every)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    last, how = path[-1], rng.randrange(7)
    old = inside[last]
    if how == 0:
        del inside[last]
    elif how == 1 and isinstance(inside, list):
        inside.extend([old] * rng.choice([1, 2, 1_000]))
    elif how == 1:
        inside[rng.choice([str(last) + "x", "", NASTY, "format"])] = old
    elif how == 2:
        other = rng.choice(every)
        twin = value
        for key in other:
            twin = twin[key]
        inside[last] = json.loads(json.dumps(twin))
    elif how == 3 and isinstance(old, int | float) and not isinstance(old, bool):
        inside[last] = rng.choice([old + 1, old - 1, -old, old * 2, old * 1_000_003, old / 2, float(old)])
    elif how == 4 and isinstance(old, str):
        cut = rng.randint(0, len(old))
        inside[last] = old[:cut] + rng.choice([NASTY, "", "x", ".", ":", old]) + old[cut:]
    elif how == 5 and isinstance(old, list):
        rng.shuffle(old)
    else:
        inside[last] = values(rng)


def spoil_text(text: str, rng: random.Random) -> str:
    """Changes a header's text beyond what JSON values can express: repeated keys, NaN, long numbers, deep nesting."""
    key = rng.choice(re.findall(r'"\w+": ', text) or [""])
    number = rng.choice(["NaN", "Infinity", "1e999", "1" * 5_000, "-0", "1.0", "[" * 5_000, '"\\ud800"', '{"a":' * 900])
    return rng.choice(
        [
            lambda: text.replace(key, f"{key}{number}, {key}", 1),
            lambda: re.sub(r"(?<=: )[\d.]+", lambda _: number, text, count=1),
            lambda: text[: rng.randint(0, len(text))],
            lambda: text + rng.choice([" ", "\n", "{}", "\x00"]),
            lambda: text.replace(",", ", ", rng.randint(1, 20)),
        ]
    )()


def change_tensors(tensors: Tensors, rng: random.Random) -> None:
    """Changes values, dtype, shape or name of a tensor; removes one or adds one."""
    name = rng.choice(sorted(tensors))
    held, how = tensors[name], rng.randrange(9)
    if how == 0 and held.numel() and held.is_floating_point():
        twin = held.clone()
        number = rng.choice([float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-30, 1e30, 0.3])
        twin.view(-1)[rng.randrange(held.numel()) if rng.random() < 0.7 else slice(None)] = number
        tensors[name] = twin
    elif how == 1:
        kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.bool, torch.uint8]
        tensors[name] = held.to(rng.choice([*kinds, torch.float8_e4m3fn, torch.complex64]))
    elif how == 2:
        tensors[name] = rng.choice([held.reshape(-1), held[None], held.new_zeros(0), held.flatten()[:1].clone()])
    elif how == 3:
        tensors[rng.choice([name + "x", name.replace(".", "_"), NASTY[:20], "", "normalize.mean"])] = tensors.pop(name)
    elif how == 4:
        del tensors[name]
    elif how == 5:
        other = rng.choice(["x", "y.perturb.theta", "normalize.std", name + ".theta", "z" * 900])
        tensors[other] = torch.zeros(rng.choice([(), (3, 1, 1), (0,), (2, 2)]))
    elif how == 6:
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other].clone(), held.clone()
    elif how == 7 and held.numel():
        raw = held.clone().reshape(-1).view(torch.uint8)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        tensors[name] = raw.view(held.dtype).reshape(held.shape)
    else:
        tensors[name] = torch.randn(held.shape).to(held.dtype)


def change_together(header: Header, tensors: Tensors, rng: random.Random) -> None:
    """Changes header and tensors consistently, as an attacker who knows the format would."""
    sites, how = header.get("sites") or [], rng.randrange(7)
    site = rng.choice(sites) if sites else None
    key = f"{site['path']}.theta" if site else ""
    if how == 0 and key in tensors:  # a site elsewhere
        site["path"] = rng.choice(["elsewhere.perturb", "conv1.perturb_7", "head.perturb", "perturb", "a.b.c.perturb"])
        tensors[f"{site['path']}.theta"] = tensors.pop(key)
    elif how == 1 and key in tensors:  # a feature map of another size
        factor = rng.choice([2, 3, 100])
        site["map_shape"] = [site["map_shape"][0], *(n * factor for n in site["map_shape"][1:])]
        if header["config"]["grain"] == "element":
            site["theta_shape"] = site["map_shape"]
            tensors[key] = torch.full(site["map_shape"], 0.25) if factor < 100 else tensors[key]
    elif how == 2:  # everything larger
        factor = rng.choice([2, 8, 64, 500])
        for about in header["inputs"].values():
            about["shape"] = [about["shape"][0], *(n * factor for n in about["shape"][1:])]
        for each in sites:
            each["map_shape"] = [each["map_shape"][0], *(n * factor for n in each["map_shape"][1:])]
    elif how == 3 and key in tensors:  # one θ for two sites
        other = f"{rng.choice(sites)['path']}.theta"
        if other != key:
            tensors.pop(key)
            header["aliases"][key] = other
    elif how == 4:  # another number of classes, or names for them
        header["classes"] = [f"class {i}" for i in range(rng.choice([1, 2, 4, 11, 100_000]))]
        if header["model"] and rng.random() < 0.7:
            header["model"]["kwargs"]["num_classes"] = len(header["classes"])
    elif how == 5:  # normalisation that was not there
        header["normalize"] = {"mean": [0.5] * 3, "std": [rng.choice([0.25, 1e-30, 1e30])] * 3}
        tensors["normalize.mean"] = torch.full((3, 1, 1), 0.5)
        tensors["normalize.std"] = torch.full((3, 1, 1), header["normalize"]["std"][0])
    elif header["config"]:  # another kind of noise
        header["config"]["site"] = rng.choice(["output", "input", "norm", "addition", "weight", "parameter"])
        header["config"]["scale"] = rng.choice(["absolute", "relative", "posterior"])


def change_bytes(whole: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, duplicates, or inserts bytes; mostly within the header."""
    head = 8 + int.from_bytes(whole[:8], "little")
    reach = head if rng.random() < 0.6 else len(whole)
    at, length = rng.randrange(reach), rng.choice([1, 2, 8, 100, 10_000])
    piece = whole[at : at + length]
    choices: list[Callable[[], bytes]] = [
        lambda: whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :],
        lambda: whole[:at] + bytes([rng.randrange(256)]) + whole[at + 1 :],
        lambda: whole[:at],
        lambda: whole[:at] + whole[at + length :],
        lambda: whole[:at] + piece + whole[at:],
        lambda: whole[:at] + rng.randbytes(length) + whole[at:],
        lambda: rng.randrange(2 ** rng.choice([8, 20, 32, 63])).to_bytes(8, "little") + whole[8:],
        lambda: whole + piece,
    ]
    return rng.choice(choices)()


def change_file(good: Path, key: str, path: Path, rng: random.Random) -> bool:
    """Writes a changed copy of a checkpoint or a state.

    Args:
        good: The honest file.
        key: Its metadata entry that holds JSON.
        path: The copy.
        rng: Source of all choices.

    Returns:
        Whether the copy was resealed, as an attacker would.
    """
    if rng.random() < 0.25:
        path.write_bytes(change_bytes(good.read_bytes(), rng))
        return False
    contents = container.read(good)
    seal = container.seal(contents.metadata, contents.tensors)
    header, tensors = json.loads(contents.metadata[key]), dict(contents.tensors)
    honest = key == "perturbify"  # change_together needs an intact header
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if honest and rng.random() < 0.15:
            change_together(header, tensors, rng)
        elif rng.random() < 0.35 and tensors:
            change_tensors(tensors, rng)
        elif isinstance(header, dict) and header:
            change_json(header, rng)
        honest = False
    text = json.dumps(header)
    if rng.random() < 0.15:
        text = spoil_text(text, rng)
    metadata = {**contents.metadata, key: text}
    if rng.random() < 0.02:
        metadata[rng.choice(["x", key + "x", NASTY])] = text
    sealed = rng.random() < 0.6
    entries = {"format": "pt", **metadata, SEAL: container.seal(metadata, tensors) if sealed else seal}
    if rng.random() < 0.03:
        del entries[SEAL]
    # One storage may serve one tensor only.
    twins = {k: t.clone().contiguous() for k, t in tensors.items()}
    try:
        save_file(twins, path, entries)
    except SafetensorError:  # a header of more than 100 MB, which safetensors does not write: begin one by hand
        path.write_bytes((10**8 + 1).to_bytes(8, "little") + b"{" * 10_000)
        return False
    return sealed


def change_recipe(text: str, rng: random.Random) -> str:
    """Changes lines, values, or characters of a recipe."""
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 2, 6])):
        at, how = rng.randrange(len(lines)), rng.randrange(7)
        key, sign, _ = lines[at].partition("=")
        numbers = ["-1", "0", "1e400", "nan", "9" * 400, "9" * 5_000, "1/0", '"8/255"', '"1e999999/3"', "{}", "[]"]
        if how == 0:
            del lines[at]
        elif how == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif how == 2 and sign:
            lines[at] = f"{key}= {json.dumps(values(rng), default=str)}"
        elif how == 3 and sign:
            lines[at] = f"{key}= {rng.choice(numbers)}"
        elif how == 4:
            lines[at] = lines[at].replace(key.strip() or "x", rng.choice(["x", '"\\u001b[2J"', "a.b.c", "train"]), 1)
        elif how == 5:
            lines[at] += rng.choice(["\x1b[2J", "\u202e", "\x00", "]" * 50, "[" * 5_000, "'''", ' = "canary:factory"'])
        else:
            cut = rng.randint(0, len(lines[at]))
            lines[at] = lines[at][:cut] + chr(rng.randrange(0x3000)) + lines[at][cut + 1 :]
        if not lines:
            break
    return "\n".join(lines)
