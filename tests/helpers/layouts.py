"""CUB-200-2011 and Stanford Dogs in their official layouts, six and five pictures of them."""

import numpy as np
import scipy.io
from PIL import Image

# Ids deliberately neither in the order of names nor from 1; file names chosen so that the order of
# ids, of names and of positions all differ.
ROWS = {
    # id: (name, class id, is train)
    40: ("001.Auk/auk_10.jpg", 1, 1),
    7: ("001.Auk/auk_2.jpg", 1, 1),
    9: ("001.Auk/auk_1.jpg", 1, 0),
    12: ("005.Wren/wren_b.jpg", 5, 1),
    3: ("005.Wren/wren_a.jpg", 5, 1),
    8: ("005.Wren/wren_c.jpg", 5, 0),
}


def write_cub(root):
    for number, (image_id, (name, _, _)) in enumerate(ROWS.items()):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        color = (image_id, 2 * image_id, 3 * image_id)
        Image.new("RGB", (100 + number, 50), color).save(path, quality=100, subsampling=0)
    ids = sorted(ROWS)
    write(root / "images.txt", [f"{i} {ROWS[i][0]}" for i in ids])
    write(root / "image_class_labels.txt", [f"{i} {ROWS[i][1]}" for i in reversed(ids)])
    write(root / "train_test_split.txt", [f"{i} {ROWS[i][2]}" for i in ROWS])
    write(root / "classes.txt", ["1 001.Auk", "5 005.Wren"])
    write(root / "bounding_boxes.txt", [f"{i} {i}.0 2.0 30.0 40.5" for i in ids])
    write(root / "parts" / "parts.txt", ["1 back", "2 left eye"])
    write(
        root / "parts" / "part_locs.txt",
        [line for i in ids for line in (f"{i} 1 {i}.5 6.0 1", f"{i} 2 0.0 0.0 0")],
    )


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


# As in the official set, numbers within a class are in no order, and lists in an order of their
# own. The second class has a lower folder name than the first.
TRAIN = [("n02-Pug/n02_9.jpg", 1), ("n02-Pug/n02_10.jpg", 1), ("n01-Collie/n01_5.jpg", 3)]
TEST = [("n01-Collie/n01_7.jpg", 3), ("n02-Pug/n02_1.jpg", 1)]
BOXES = {name: (index, 2, 30 + index, 40) for index, (name, _) in enumerate(TRAIN + TEST)}


def annotation(*boxes):
    objects = "".join(
        "<object><name>Pug</name><bndbox>"
        + "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), box))  # noqa: B905
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation><size><width>50</width></size>{objects}\n</annotation>\n"


def cell_of(texts):
    cell = np.empty((len(texts), 1), dtype=object)
    cell[:, 0] = texts
    return cell


def write_list(path, rows, **variables):
    content = {
        "file_list": cell_of([name for name, _ in rows]),
        "annotation_list": cell_of([name[:-4] for name, _ in rows]),
        "labels": np.array([[label] for _, label in rows], dtype=np.uint8),
    } | variables
    scipy.io.savemat(path, content, do_compression=True)


def write_dogs(root):
    for name, box in BOXES.items():
        for path in (root / "Images" / name, root / "Annotation" / name[:-4]):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 45), (50 * box[0], 0, 0)).save(root / "Images" / name)
        (root / "Annotation" / name[:-4]).write_text(annotation(box, (1, 1, 5, 5)))
    write_list(root / "train_list.mat", TRAIN)
    write_list(root / "test_list.mat", TEST)
