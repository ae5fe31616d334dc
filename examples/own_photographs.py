"""Your own photographs, a folder per class: ``python examples/own_photographs.py [FOLDER]``; or it makes some."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import perturbify
from perturbify import data, recipe, zoo


def make(folder):
    """Photographs of two kinds of fence, 40 to train on and 20 to test, in folders as ImageFolder reads them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 20)):
        for kind in ("planks", "rails"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            for number in range(count // 2):
                height, width = rng.integers(48, 80, 2)
                stripes = (np.arange(width) // 6 % 2 * np.ones((height, 1))) * 120 + rng.normal(60, 20, (height, width))
                pixels = stripes.clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels if kind == "planks" else pixels.T).save(folder / part / kind / f"{number}.png")


def main(folder):
    if folder is None:
        make(folder := Path("fences"))
    images = data.load(str(folder), image_size=32)
    print(f"{len(images.train)} images to train on, {len(images.test)} to test; classes: {', '.join(images.classes)}")
    net = zoo.create("timm:resnet10t", num_classes=len(images.classes))  # pretrained=True, if you are online
    changes = {"train.epochs": 3, "train.warmup_epochs": 1, "train.batch_size": 10, "attack.epsilon": 8 / 255}
    run = perturbify.finetune(net, recipe.load("smoke", changes), "runs/own_photographs", data=images)
    batch, labels = next(images.test.batches(20))
    answer = perturbify.predict(run.model, batch)
    print(f"{int((answer.classes == labels).sum())} of {len(labels)} right, with the noise on")


if __name__ == "__main__":
    main(*sys.argv[1:] or [None])
