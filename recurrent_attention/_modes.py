"""Train and eval mode: an answer in eval mode changes no mode that anybody else can see."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def eval_view(model: Module) -> Iterator[Module]:
    """Yield the model in eval mode, and leave the model itself as it is.

    Every thread sees a module's mode. So a model that is not in eval mode is not switched: a view
    is yielded, new modules over the same parameters, buffers and hooks.
    """
    yield view_of(model).eval() if any(module.training for module in model.modules()) else model


def view_of(model: Module) -> Module:
    """Build a model of new modules, in the same modes, over the same parameters and buffers.

    What modules keep for themselves, such as timm's caches of attention biases, is kept apart.
    """
    views: dict[int, nn.Module] = {}
    for module in model.modules():
        view = module.__new__(type(module))
        view.__dict__ = dict(module.__dict__)
        views[id(module)] = view
    for module in model.modules():
        compiled = module._modules.get("_orig_mod")  # of torch.compile(part): it runs the original
        if compiled is not None:
            views[id(module)] = views[id(compiled)]
    for view in set(views.values()):
        for name, value in view.__dict__.items():
            view.__dict__[name] = _seen(value, views)
        view.__dict__["_compiled_call_impl"] = None  # it would run the modules of the model
    found: Any = views[id(model)]
    return found  # type: ignore[no-any-return]


def _seen(value: Any, views: dict[int, nn.Module]) -> Any:
    """Return what a view has for an attribute: views of modules, and containers of its own."""
    if isinstance(value, nn.Module):
        return views.get(id(value), value)
    if isinstance(value, MethodType) and id(value.__self__) in views:
        return MethodType(value.__func__, views[id(value.__self__)])
    if type(value) in (list, tuple, set):
        return type(value)(_seen(item, views) for item in value)
    if isinstance(value, dict):
        copied = value.copy()
        for key, item in value.items():
            copied[key] = _seen(item, views)
        return copied
    return value


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Put each module of a model back into its own mode afterwards, if something is raised."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    except BaseException:
        _set(modes)
        raise


def drop_kept(model: nn.Module) -> None:
    """Let a model drop what it keeps of a pass in eval mode; all modules stay in their own modes.

    Some timm models keep the attention biases until `train`, with the graph that they came from:
    such a model cannot be copied, and a graph that was traced before does not fit it any more.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    _set(modes)


def _set(modes: list[tuple[nn.Module, bool]]) -> None:
    """By `train`, where timm models drop what they kept; parents first: it reaches the children."""
    for module, training in modes:
        module.train(training)
