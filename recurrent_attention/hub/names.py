"""Names in checkpoints: the wrappers' prefixes, and the names the paper's authors gave."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DataParallel and DDP; torch.compile

_AUTHORS_NAMES = (
    (r"img_features\.", r"global_backbone.model.features."),
    (r"patch_features\.", r"local_backbone.model.features."),
    (r"add_on\.", r"global_convs."),
    (r"img_classifier\.", r"global_head."),
    (r"lstm\.(weight|bias)_(ih|hh)_l(\d+)$", r"attention.cells.\3.\1_\2"),
    (r"attention\.att_len\.", r"attention.scorer."),
    (r"fc\.", r"local_head."),
)


def canonical_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint's entries to the names of `TwoStreamClassifier`.

    Prefixes `module.` and `_orig_mod.` are stripped, in any nesting, where every entry carries
    them. Names of the authors' published network become ours; any other name stays.

    Args:
        state_dict: names to tensors; it is left as it is.

    Returns:
        The same tensors under canonical names, in the same order.

    Example:
        >>> list(canonical_names({"module.lstm.weight_hh_l1": None, "module.fc.bias": None}))
        ['attention.cells.1.weight_hh', 'local_head.bias']
    """
    names = list(state_dict)
    while names and (prefix := _shared_prefix(names)):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(map(_from_authors, names), state_dict.values(), strict=True))


def unwrapped(weights: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Take the entries of a model out of those of what it was a part of, by the names it wants.

    A LightningModule's entries begin with `model.` or whatever the attribute is called, an averaged
    model's with `module.` and have a counter beside them. If each wanted name is there behind one
    prefix, these are the model's entries, and the others are not.

    Args:
        weights: names to tensors, of `canonical_names`; left as it is.
        wanted: the names of the model.

    Returns:
        The model's entries under its own names; all entries as they are if there is no such prefix.

    Example:
        >>> weights = {"n_averaged": None, "net.module.a.w": None, "net.module.b.w": None}
        >>> list(unwrapped(weights, ["a.w", "b.w"]))
        ['a.w', 'b.w']
    """
    first = next(iter(wanted), None)
    if first is None or all(name in weights for name in wanted):
        return dict(weights)
    for found in weights:
        prefix = found.removesuffix(first)
        if prefix != found and prefix and all(f"{prefix}{name}" in weights for name in wanted):
            inside = {name: value for name, value in weights.items() if name.startswith(prefix)}
            return {name.removeprefix(prefix): value for name, value in inside.items()}
    return dict(weights)


def _shared_prefix(names: list[str]) -> str | None:
    for prefix in _WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _from_authors(name: str) -> str:
    for pattern, ours in _AUTHORS_NAMES:
        renamed, matches = re.subn(rf"^{pattern}", ours, name)
        if matches:
            return renamed
    return name
