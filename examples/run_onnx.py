r"""Name what is on a picture with an exported model: numpy, Pillow and onnxruntime, and no torch.

    python examples/run_onnx.py PICTURE model.onnx               of export_onnx(model, path)
    python examples/run_onnx.py PICTURE patches.onnx boxes.onnx  of graph="patches" and "boxes"
    python examples/run_onnx.py PICTURE global.onnx boxes.onnx look.onnx --confidence 0.9

The second answers as `model.predict` does: it cuts the patches out of the picture itself. The third
looks at one more patch only until it is sure, as `model.predict(picture, confidence=0.9)` does. The
metadata of each file hold everything else about the model.
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
    parser.add_argument("look", type=Path, nargs="?", help='ONNX file of graph="look"')
    parser.add_argument("--confidence", type=float, default=0.9, help="enough to stop looking")
    args = parser.parse_args(arguments)
    session, settings = load(args.model)
    opened = Image.open(args.picture, formats=FORMATS)
    picture = ImageOps.exif_transpose(opened).convert(settings["color_order"])
    images = view(picture, (0, 0, *picture.size), settings["image_size"], settings)[None]
    if settings["graph"] == "global":
        (logits,) = session.run(["global_logits"], {"images": images})
        odds = look_until_sure(picture, logits, args)
    else:
        inputs, looks = {"images": images}, settings["num_patches"]
        if settings["graph"] == "patches":
            boxes = propose(picture, args.boxes)
            cuts = [view(picture, box, settings["patch_size"], settings) for box in boxes]
            inputs["patches"], looks = np.stack(cuts)[None], len(cuts)
        (logits,) = session.run(["logits"], inputs)
        odds = softmax(logits[0] / temperature(settings, looks))
    names = settings["class_names"] or [str(index) for index in range(len(odds))]
    best = np.argsort(-odds, kind="stable")[:5]
    answer = [(names[index], float(odds[index])) for index in best]
    for name, probability in answer:
        print(f"{100 * probability:5.1f} %  {name}")
    return answer


def propose(picture: Image.Image, path: Path | None) -> list[tuple]:
    """Let a model say where to look, in pixels of the picture."""
    if path is None:
        raise ValueError('Expected a file of graph="boxes" beside one of graph="patches".')
    session, settings = load(path)
    side = settings["image_size"]
    finer = view(picture, (0, 0, *picture.size), side, settings)[None]
    (boxes,) = session.run(["boxes"], {"images": finer})
    size = np.array(picture.size * 2, np.float32)
    return [tuple(box) for box in np.clip(boxes[0] / side * size, 0, size).tolist()]


def look_until_sure(
    picture: Image.Image, global_logits: np.ndarray, args: argparse.Namespace
) -> np.ndarray:
    """Look at one patch after the other; return the odds (k) of the first answer that is sure."""
    if args.boxes is None or args.look is None:
        raise ValueError('Expected files of graph="boxes" and graph="look" beside "global".')
    session, settings = load(args.look)
    odds = softmax(global_logits[0] / temperature(settings, 0))
    state = {
        "total": np.zeros((1, settings["num_features"]), np.float32),
        "mass": np.zeros(1, np.float32),
        "peak": np.full(1, -np.inf, np.float32),
    }
    boxes = propose(picture, args.boxes) if odds.max() < args.confidence else []
    for number, box in enumerate(boxes, 1):
        patch = view(picture, box, settings["patch_size"], settings)[None]
        outputs = ["local_logits", "after_total", "after_mass", "after_peak"]
        local, *after = session.run(outputs, {"patches": patch, **state})
        state = dict(zip(state, after, strict=True))
        logits = global_logits + settings["fusion_weight"] * local
        odds = softmax(logits[0] / temperature(settings, number))
        if odds.max() >= args.confidence:
            break
    return odds


def temperature(settings: dict, looks: int) -> float:
    """Return what logits after so many looks are divided by; the last counts for more of them."""
    heats = settings["temperatures"] or [1.0]
    return heats[min(looks, len(heats) - 1)]


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


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
