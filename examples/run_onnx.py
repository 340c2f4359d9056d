r"""Name what is on a picture with an exported model: numpy, Pillow and onnxruntime, and no torch.

    python examples/run_onnx.py PICTURE model.onnx               of export_onnx(model, path)
    python examples/run_onnx.py PICTURE patches.onnx boxes.onnx  of graph="patches" and "boxes"

The second answers as `model.predict` does: it cuts the patches out of the picture itself. All that
has to be known about the model stands in the metadata of its file.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime

FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]  # a file chooses none but these


def main(arguments: list[str] | None = None) -> list[tuple[str, float]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="any picture file")
    parser.add_argument("model", type=Path, help='ONNX file, of graph="whole" or "patches"')
    parser.add_argument("boxes", type=Path, nargs="?", help='ONNX file of graph="boxes"')
    args = parser.parse_args(arguments)
    session, look = load(args.model)
    opened = Image.open(args.picture, formats=FORMATS)
    picture = ImageOps.exif_transpose(opened).convert(look["color_order"])
    everything = (0, 0, *picture.size)
    inputs = {"images": view(picture, everything, look["image_size"], look)[None]}
    if look["graph"] == "patches":
        if args.boxes is None:
            raise ValueError('Expected a file of graph="boxes" beside one of graph="patches".')
        proposing, how = load(args.boxes)
        finer = view(picture, everything, how["image_size"], how)[None]
        (boxes,) = proposing.run(["boxes"], {"images": finer})
        size = np.array(picture.size * 2, np.float32)
        boxes = np.clip(boxes[0] / how["image_size"] * size, 0, size)
        patches = [view(picture, tuple(box), look["patch_size"], look) for box in boxes.tolist()]
        inputs["patches"] = np.stack(patches)[None]
    (logits,) = session.run(["logits"], inputs)
    odds = np.exp(logits[0] - logits[0].max())
    names = look["class_names"] or [str(index) for index in range(len(odds))]
    best = np.argsort(-odds, kind="stable")[:5]
    answer = [(names[index], float(odds[index] / odds.sum())) for index in best]
    for name, probability in answer:
        print(f"{100 * probability:5.1f} %  {name}")
    return answer


def load(path: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    return session, {key: json.loads(value) for key, value in metadata.items()}


def view(picture: Image.Image, box: tuple, size: int, look: dict) -> np.ndarray:
    """Cut a box (x0, y0, x1, y1) out, resize it to a square, and normalise it: (3 size size)."""
    cut = picture.crop(tuple(round(corner) for corner in box))  # at whole pixels
    cut = cut.resize((size, size), Image.Resampling[look["interpolation"].upper()])
    pixels = np.asarray(cut, np.float32) / 255
    pixels = pixels.reshape(size, size, -1)  # gray has no axis of its own
    normal = (pixels - np.float32(look["mean"])) / np.float32(look["std"])
    return normal.transpose(2, 0, 1)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"run_onnx.py: {error}")
