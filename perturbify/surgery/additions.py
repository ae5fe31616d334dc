"""The sums of two feature maps in a graph: where residual blocks add."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from perturbify.errors import SurgeryError
from perturbify.surgery.example import Example
from perturbify.surgery.trace import Addition
from perturbify.text import first_line

_FUNCTIONS = frozenset((operator.add, operator.iadd, torch.add))
_METHODS = frozenset(("add", "add_"))


def find_additions(graph: fx.Graph, model: nn.Module, example: Example) -> tuple[Addition, ...]:
    """Finds the sums of two feature maps of equal shape that both depend on the input.

    Args:
        graph: Of the network.
        model: The network it was traced from; it is run once, on the example input.
        example: That input.

    Returns:
        One entry a sum, in order of execution.

    Raises:
        SurgeryError: The graph cannot be run there, so the sums' shapes are not known.
    """
    on_meta = any(p.is_meta for p in (*model.parameters(), *model.buffers()))
    args, kwargs = example.call(meta=on_meta)
    given = dict(zip(example.names, args, strict=False)) | kwargs
    run = _Run(model, graph)
    try:
        with torch.no_grad():
            run.run(*(given[str(n.target)] for n in graph.nodes if n.op == "placeholder"), enable_io_processing=False)
    except Exception as error:
        raise SurgeryError(
            f"The additions of {type(model).__name__} have unknown shapes: {first_line(error)}.",
            'Use site="norm" or site="output".',
        ) from error
    return tuple(run.found)


class _Run(fx.Interpreter):
    """Runs a graph and writes down its additions."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.found: list[Addition] = []
        self._computed: set[fx.Node] = set()  # from the input

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "placeholder" or any(i in self._computed for i in n.all_input_nodes):
            self._computed.add(n)
        if self._adds(n) and isinstance(value, Tensor) and value.dim() > 1:
            owner = next(reversed((n.meta.get("nn_module_stack") or {"": ("", None)}).values()))[0]
            self.found.append(Addition(owner, tuple(value.shape[1:]), n))
        return value

    def _adds(self, n: fx.Node) -> bool:
        adding = (n.op == "call_function" and n.target in _FUNCTIONS) or (
            n.op == "call_method" and n.target in _METHODS
        )
        if not adding or len(n.args) != 2 or not all(a in self._computed for a in n.args if isinstance(a, fx.Node)):
            return False
        left, right = (self.env.get(a) if isinstance(a, fx.Node) else None for a in n.args)
        return isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape
