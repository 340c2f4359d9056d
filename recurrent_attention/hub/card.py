"""The README.md that goes along with saved weights."""

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from recurrent_attention.network import TwoStreamNetwork

NAME = "README.md"
MOST_NAMES = 200  # on a card; config.json has all of them
TEMPLATE = """\
---
{{ card_data }}
---

# {{ title }}

Names one of {{ num_classes }} classes that differ by a detail. A global stream sees the whole
picture, a local one looks at parts of it, one after the other, and weighs what it saw by a learned
attention; the model finds the parts by itself.

## Use

After `pip install recurrent-attention`, with the path of this folder or the name of its repository:

```python
from recurrent_attention import TwoStreamClassifier

model = TwoStreamClassifier.from_pretrained({{ source }})
print(model.predict("picture.jpg"))
```

`model.explain("picture.jpg").save("look.png")` shows where it looked. To start from it with classes
of your own, add `class_names=[...]` to the second line, and train.

## What it is

| | |
|---|---|
{% for name, value in facts -%}
| {{ name }} | {{ value }} |
{% endfor %}
## Data and accuracy

{% if notes -%}
{{ notes }}
{%- else -%}
Not stated.
{%- endif %}

## Classes

```text
{{ classes }}
```

## Licence and source

The code is under the MIT licence. What holds for these weights says whoever shares them, in the
head of this file (`license`); pictures and pretrained backbones may come with terms of their own.

The method is by Shroff, Chen, Wei and Wang: "Focus Longer to See Better: Recursively Refined
Attention for Fine-Grained Image Classification", CVPR Workshops 2020, [arXiv]({{ paper_url }}).
"""


def variables_of(
    network: TwoStreamNetwork, config: Mapping[str, Any], repo_id: str
) -> dict[str, Any]:
    """Return what `TEMPLATE` says of a model.

    Args:
        network: what to describe.
        config: its arguments, as they are saved.
        repo_id: the folder or repository to load it from.
    """
    names = network.class_names or tuple(map(str, range(network.num_classes)))
    # As JSON, one a line, no name can end the block or put a tag into it.
    classes = [json.dumps(name, ensure_ascii=False) for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        classes.append(f"and {len(names) - MOST_NAMES} more, which config.json names")
    return {
        "title": repo_id.rpartition("/")[2].translate({ord(c): " " for c in "\n\r<>[]`|"}),
        "source": json.dumps(repo_id),
        "num_classes": network.num_classes,
        "facts": _facts(network, config),
        "classes": "\n".join(classes),
    }


def _facts(network: TwoStreamNetwork, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    look = network.data_config
    size, patch_size = network.image_size, network.patch_size
    parameters = sum(parameter.numel() for parameter in network.parameters())
    mean, std = (", ".join(f"{v:.4g}" for v in look[name]) for name in ("mean", "std"))
    backbones = [f"`{config['backbone']}`", f"`{config['local_backbone'] or config['backbone']}`"]
    looks = (
        f"{config['num_steps']} looks at each"
        if network.patch_weighting == "equal"
        else f"one look at each, {network.patch_weighting} attention"
    )
    return [
        ("Backbones (timm)", f"{backbones[0]} for the picture, {backbones[1]} for its parts"),
        ("Parameters", f"{parameters:,}"),
        ("Picture", f"{size} x {size} pixels, {network.global_backbone.in_chans} channels"),
        ("Parts", f"{network.num_patches} of {patch_size} x {patch_size} pixels, {looks}"),
        ("Mean, standard deviation", f"({mean}), ({std}) of values in [0, 1]"),
        ("Interpolation", str(look["interpolation"])),
        ("Logits", f"global + {network.fusion_weight:g} * local"),
    ]


def is_there(repo_id: str, token: str | None, branch: str | None) -> bool:
    """Return whether a repository on the Hub has a model card; a new one has none."""
    try:
        return HfApi(token=token).file_exists(repo_id, NAME, revision=branch)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return False
