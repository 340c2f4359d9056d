"""From a file, a PIL image or an array to upright pixels and normalised square views."""

from recurrent_attention.images.levels import RangeWarning
from recurrent_attention.images.reading import open_picture

__all__ = ["RangeWarning", "open_picture"]
