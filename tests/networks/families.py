"""Networks of timm and torchvision, one of each family that surgery treats in a way of its own."""

import pytest
import timm
import torchvision


def tv(name, **options):
    return torchvision.models.get_model(name, weights=None, num_classes=5, **options)


def tm(name, **options):
    return timm.create_model(name, num_classes=5, **options)


FAMILIES = {
    "resnet": (lambda: tm("resnet10t"), (3, 32, 32)),
    "convnext": (lambda: tm("convnext_atto"), (3, 32, 32)),
    "efficientnet, Conv2dSame": (lambda: tm("tf_efficientnet_b0"), (3, 32, 32)),
    "vit": (lambda: tm("test_vit", img_size=32), (3, 32, 32)),
    "nfnet, ScaledStdConv": (lambda: tm("test_nfnet"), (3, 32, 32)),
    "densenet": (lambda: tv("densenet121"), (3, 32, 32)),
    "coat, convolutions called twice": (lambda: tm("coat_lite_tiny", img_size=64), (3, 64, 64)),
    "video, Conv3d": (lambda: tv("r3d_18"), (3, 2, 16, 16)),
    "segmentation, OrderedDict": (lambda: tv("fcn_resnet50", weights_backbone=None), (3, 32, 32)),
    "efficientnet, CondConv": (lambda: tm("tf_efficientnet_cc_b0_4e"), (3, 32, 32)),
    "efficientvit": (lambda: tm("efficientvit_b0"), (3, 64, 64)),
}
QUICK = tuple(n for n in FAMILIES if n not in ("efficientnet, Conv2dSame", "densenet", "segmentation, OrderedDict"))


def families(quick=QUICK):
    """Runs a test on every family; those that are not quick only with ``-m slow``."""
    marked = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
    return pytest.mark.parametrize("family", marked, indirect=True)
