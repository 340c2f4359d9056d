"""Draw docs/birds.jpg: one row for each class of SyntheticBirds.

PYTHONPATH=examples python benchmarks/bird_sheet.py
"""

import tempfile
from pathlib import Path

from drawn_birds import SyntheticBirds
from PIL import Image, ImageDraw, ImageFont

COLUMNS, CELL, MARGIN, LABEL = 6, (176, 132), 6, 150


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        birds = SyntheticBirds(folder, train_per_class=3 * COLUMNS, test_per_class=1)
        width = LABEL + COLUMNS * (CELL[0] + MARGIN)
        rows = len(birds.class_names)
        sheet = Image.new("RGB", (width, rows * (CELL[1] + MARGIN)), "white")
        pen = ImageDraw.Draw(sheet)
        font = ImageFont.load_default(size=15)
        for row in range(rows):
            top = row * (CELL[1] + MARGIN)
            words = birds.class_names[row][4:].replace("_Finch", "").replace("_", " ")
            pen.text((4, top + CELL[1] // 2 - 8), words, fill="#444444", font=font)
            members = [index for index, label in enumerate(birds.labels) if label == row]
            wide = [i for i in members if birds.size(i)[0] > birds.size(i)[1]][:COLUMNS]
            for column, index in enumerate(wide):
                picture, _ = birds[index]
                picture = picture.resize(CELL, Image.Resampling.LANCZOS)
                sheet.paste(picture, (LABEL + column * (CELL[0] + MARGIN), top))
        sheet.save(Path(__file__).parents[1] / "docs" / "birds.jpg", quality=88)


if __name__ == "__main__":
    main()
