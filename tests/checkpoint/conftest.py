"""A good file, and where to write another."""

import pytest
from networks.saved import own

import perturbify


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    perturbify.save(own(), path, classes=["a", "b", "c"])
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"
