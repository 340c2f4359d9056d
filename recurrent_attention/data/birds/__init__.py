"""Birds drawn with Pillow, that differ by one small mark."""

from recurrent_attention.data.birds.drawing import MARKS, Drawing, Mark, draw_bird

__all__ = ["MARKS", "Drawing", "Mark", "draw_bird"]
