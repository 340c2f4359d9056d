"""What a module does with its parameters, found out on the meta device, without arithmetic."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node


class Call(NamedTuple):
    """One call of a submodule during `trace`.

    Attributes:
        name: the submodule's dotted name.
        input_shape: shape of the first positional tensor, () if there was none.
        output_shape: shape of the output, () if it was not one tensor.
        nodes: the autograd nodes of the output's tensors.
    """

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    nodes: tuple[Node, ...]


class Pruned(NamedTuple):
    """What `prune` found.

    Attributes:
        taken_out: names of submodules and parameters, each with what is now in its place.
        kept: names of those that do not matter to the output, but are needed to compute it.
        output_shape: shape of the output.
    """

    taken_out: dict[str, nn.Identity | None]
    kept: list[str]
    output_shape: tuple[int, ...]


def on_meta(module: nn.Module) -> nn.Module:
    """Copy a module without its weights: parameters and buffers become meta tensors.

    Whatever a probe does to the copy (modes, counters, caches, hooks), the module keeps its state.
    Every floating-point parameter of the copy requires a gradient, also one that was frozen.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        shape_only = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(shape_only, shape_only.is_floating_point())
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo)


def blank_images(*shape: int) -> Tensor:
    """Make a meta batch of images that every layer's output can be traced back to."""
    return torch.zeros(shape, device="meta", requires_grad=True).clone()


def trace(module: nn.Module, run: Callable[[], Any]) -> tuple[Any, list[Call]]:
    """Call `run` and note the submodules of `module` that it called, in order of completion."""
    calls: list[Call] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            nodes = tuple(t.grad_fn for t in tensors_in(output) if t.grad_fn is not None)
            calls.append(Call(name, _shape(inputs[:1]), _shape((output,)), nodes))

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in module.named_modules() if name]
    try:
        with torch.device("meta"):  # for what models make themselves, such as positions and masks
            return run(), calls
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(output: Any) -> Iterator[Tensor]:
    """List the tensors in nested tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from tensors_in(item)
    elif isinstance(output, dict):
        yield from tensors_in(list(output.values()))


def nodes_behind(output: Tensor) -> set[Node]:
    """List every autograd node that the gradient of `output` flows through."""
    found: set[Node] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(next_node for next_node, _ in node.next_functions)
    return found


def reached_parameters(module: nn.Module, nodes: set[Node]) -> set[str]:
    """Name the parameters among the leaves of an autograd graph."""
    leaves = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    return {name for name, parameter in module.named_parameters() if id(parameter) in leaves}


def unreached(module: nn.Module, output: Tensor, calls: list[Call]) -> list[str]:
    """Name what `output` does not depend on: whole submodules where possible, else parameters.

    A submodule counts only if it holds parameters, none of them is reached, and nothing that it
    computed reaches `output` either.
    """
    nodes = nodes_behind(output)
    used = reached_parameters(module, nodes)
    for call in calls:
        if not nodes.isdisjoint(call.nodes):
            used.add(call.name)

    def visit(part: nn.Module, prefix: str) -> Iterator[str]:
        for name, _ in part.named_parameters(prefix, recurse=False):
            if name not in used:
                yield name
        for child_name, child in part.named_children():
            name = f"{prefix}.{child_name}" if prefix else child_name
            inside = [full for full, _ in child.named_parameters(name)]
            if inside and used.isdisjoint([name, *inside]):
                yield name
            else:
                yield from visit(child, name)

    return list(visit(module, ""))


def replace(module: nn.Module, name: str, new: Any) -> Any:
    """Put `new` in the place of a submodule or a parameter and return the old one."""
    parent_name, _, last = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    slots: dict[str, Any] = parent._modules if last in parent._modules else parent._parameters
    old = slots[last]
    slots[last] = new
    return old


def freeze(module: nn.Module, name: str) -> None:
    """Require no gradients for a submodule or a parameter."""
    parent_name, _, last = name.rpartition(".")
    part = getattr(module.get_submodule(parent_name), last)
    for parameter in [part] if isinstance(part, nn.Parameter) else part.parameters():
        parameter.requires_grad_(False)


def prune(skeleton: nn.Module, run: Callable[[], Tensor]) -> Pruned:
    """Take out of `skeleton` what the output of `run` does not depend on.

    Idle submodules, then those that are called for nothing, then parameters are taken out, each
    group only if the output keeps its shape and still depends on the same parameters.
    """
    output, calls = trace(skeleton, run)
    used = reached_parameters(skeleton, nodes_behind(output))
    names = unreached(skeleton, output, calls)
    modules = {name for name, _ in skeleton.named_modules()}
    called = {call.name for call in calls}
    busy = {name for name in names if any(f"{call}.".startswith(f"{name}.") for call in called)}

    def still_works(replacements: dict[str, nn.Identity | None]) -> bool:
        old = {name: replace(skeleton, name, new) for name, new in replacements.items()}
        try:
            new_output, _ = trace(skeleton, run)
            reached = reached_parameters(skeleton, nodes_behind(new_output))
            works = bool(new_output.shape == output.shape and reached == used)
        except Exception:  # whatever a model raises without the part, it needs the part
            works = False
        if not works:
            for name, part in old.items():
                replace(skeleton, name, part)
        return works

    taken_out: dict[str, nn.Identity | None] = {}
    for members in (modules - busy, busy, set(names) - modules):
        group = {
            name: nn.Identity() if name in modules else None for name in names if name in members
        }
        if group and still_works(group):
            taken_out |= group
    return Pruned(taken_out, [name for name in names if name not in taken_out], tuple(output.shape))


def _shape(values: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(values[0].shape) if values and isinstance(values[0], Tensor) else ()
