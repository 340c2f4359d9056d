"""Pictures, their boxes, and the pairs of image and patches that the two streams take."""

from recurrent_attention.data.authors_patches import find_patch_files, read_patch_file
from recurrent_attention.data.boxes import (
    read_boxes,
    write_boxes,
)
from recurrent_attention.data.checking import CheckReport, Problem, check_pictures
from recurrent_attention.data.cub import CUB200
from recurrent_attention.data.decoding import BadPicture
from recurrent_attention.data.dogs import StanfordDogs
from recurrent_attention.data.folder import PictureFolder
from recurrent_attention.data.items import PictureItems
from recurrent_attention.data.listing import pictures_under
from recurrent_attention.data.pictures import Pictures
from recurrent_attention.data.two_stream import TwoStreamDataset, TwoStreamSample

__all__ = [
    "CUB200",
    "BadPicture",
    "CheckReport",
    "PictureFolder",
    "PictureItems",
    "Pictures",
    "Problem",
    "StanfordDogs",
    "TwoStreamDataset",
    "TwoStreamSample",
    "check_pictures",
    "find_patch_files",
    "pictures_under",
    "read_boxes",
    "read_patch_file",
    "write_boxes",
]
