"""Extension of griffe: show a docstring's section `Example` as code, as it shows `Examples`."""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Rename the section, which griffe would take for an ordinary paragraph."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename it in one docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.M)
