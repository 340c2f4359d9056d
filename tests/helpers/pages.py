"""Read the Python blocks of a Markdown page and run them unchanged."""

import re


def python_of(page):
    """All blocks of a page, in order."""
    return blocks_of(page.read_text("utf-8"))


def blocks_of(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def sections_of(page):
    """Heading of a section to its blocks, in order."""
    _, *parts = re.split(r"^## (.*)\n", page.read_text("utf-8"), flags=re.MULTILINE)
    return {title: blocks_of(text) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def run(code, where, names):
    exec(compile(code, where, "exec"), names)
