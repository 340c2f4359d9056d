"""Birds drawn with Pillow that differ by one small mark: a data set that needs nothing else."""

from drawn_birds.data_set import SyntheticBirds
from drawn_birds.drawing import MARKS, Drawing, Mark, draw_bird

__all__ = ["MARKS", "Drawing", "Mark", "SyntheticBirds", "draw_bird"]
