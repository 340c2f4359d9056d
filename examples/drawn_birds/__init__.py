"""Birds drawn with Pillow, that differ by one small mark."""

from .drawing import MARKS, Drawing, Mark, draw_bird
from .writer import SyntheticBirds

__all__ = ["MARKS", "Drawing", "Mark", "SyntheticBirds", "draw_bird"]
