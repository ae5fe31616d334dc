"""Things that two processes do together, joined by gloo; each leaves what it found in a file."""

import contextlib
import os
import socket
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import nn

import perturbify
from perturbify import methods, recipe
from perturbify.data.bundle import assemble
from perturbify.data.split import MemorySplit
from perturbify.ranks import ranks
from perturbify.training import finetune, resume
from perturbify.training.phases import Phase
from perturbify.training.prepare import prepare
from perturbify.training.step import Trainer

CLASSES = ("a", "b", "c")


def run(task, folder, *arguments, world=2):
    """What ``task(folder, *arguments)`` returned in each process, in order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (world, port, task, folder, arguments), nprocs=world)
    return [torch.load(Path(folder) / f"found-{rank}.pt", weights_only=False) for rank in range(world)]


def _process(rank, world, port, task, folder, arguments):
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()})
    torch.save(task(folder, *arguments), Path(folder) / f"found-{rank}.pt")


def network(norm=True):
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # other weights in each process, if nobody sees to it
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def data():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (26, 3, 6, 6), generator=generator, dtype=torch.uint8)
    split = MemorySplit(pixels, torch.arange(26) % 3)
    return assemble("tiny", [split, split], CLASSES, (6, 6))


def settings(**changes):
    base = {
        "data.name": "tiny",
        "data.train_images": None,
        "train.batch_size": 6,
        "train.epochs": 3,
        "train.save_minutes": 1e-9,
        "attack.steps": 2,
        "attack.step_size": 0.05,
    }
    return recipe.load("smoke", base | {key.replace("__", "."): value for key, value in changes.items()})


def whole_run(folder, epochs, stop_at=None):
    """A run of warm-up and alternation; the state it ends in, what its noise drew, and its metrics."""
    drawn = []
    model = perturbify.wrap(network(), example_input=torch.rand(2, 3, 6, 6))
    site = next(m for _, m in perturbify.perturbations(model))

    def note(module, inputs, output):
        if module.enabled:
            drawn.append((output - inputs[0])[0, 0, 0, :4].detach().clone())

    site.register_forward_hook(note)

    def on_step(progress):
        if (progress.epoch, progress.step) == stop_at:
            raise InterruptedError

    result = None
    with contextlib.suppress(InterruptedError):
        result = finetune(
            model, settings(train__epochs=epochs), Path(folder) / "run", data=data(), device="cpu", on_step=on_step
        )
    return {
        "state": model.state_dict(),
        "drawn": torch.stack(drawn) if drawn else None,
        "metrics": None if result is None else result.metrics,
    }


def continue_run(folder):
    result = resume(Path(folder) / "run", model=network(), data=data(), device="cpu")
    return {"state": result.model.state_dict(), "metrics": result.metrics}


def one_step(folder, phases, images):
    """Steps on the first images, noise off, each process on its own; the gradients of the last one."""
    with ranks() as processes:
        torch.manual_seed(0)
        chosen = settings(
            attack__random_start=False, train__batch_size=images, optimizer__momentum=0.0, optimizer__nesterov=False
        )
        method = methods.get(chosen.method)
        trainer = Trainer(prepare(network(norm=False), chosen, data(), method).train(), chosen, method, processes)
        trainer.set_epoch(0)
        x, y = next(data().train.batches(images))
        mine = slice(processes.rank, None, processes.world)
        for name in phases:
            phase = Phase(name, weights=name != "theta", thetas=name == "theta", noise=False)
            trainer.step(x[mine], y[mine], phase, 0, images=images)
        return {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
