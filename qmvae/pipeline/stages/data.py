"""Make the images and pairs of the preset: artifacts/<preset>/data."""

from matplotlib import font_manager

from qmvae.data.checks import DataError, check_enough, check_sides
from qmvae.data.dataset import build
from qmvae.data.sources import read
from qmvae.model.base import check_names
from qmvae.pipeline.datasets import save_dataset
from qmvae.pipeline.schema import Params


def check_titles(titles: dict[str, str], preset: str) -> None:
    """Check that the font of all figures has the letters of the titles, by modality. Raises DataError."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    for name, title in titles.items():
        if lacking := sorted({letter for letter in title if not font.get_char_index(ord(letter))}):
            where = f"params.yaml: presets.{preset}.images.titles.{name}"
            known = "expected letters of DejaVu Sans, such as Latin, Greek and Cyrillic ones; rename it"
            raise DataError(f"{where}: the font of the figures has no {' '.join(lacking)}, {known}")


def run(params: Params) -> None:
    """Read or make the images that the preset names, check them, pair them, and write them. Raises DataError."""
    try:
        check_names(params.modalities)
    except ValueError as error:
        raise DataError(f"params.yaml: modalities: {error}") from None
    images, pairs = params.images, params.pairs
    check_titles(images.titles, params.preset)
    found = read(images.source, params.data, list(params.modalities), images.seed)
    for name, (where, arrays) in found.items():
        if params.modalities[name].net == "conv":
            check_sides(where, arrays, name)
        batch = params.classifiers.batch_size, f"presets.{params.preset}.classifiers.batch_size"
        check_enough(f"{where}: train_images", len(arrays["train_images"]), *batch)
    dataset = build(found, images.titles, pairs.multiplier, pairs.seed, pairs.redraw)
    largest = max(params.models, key=lambda model: params.training[model].batch_size)
    batch = params.training[largest].batch_size, params.batch_size_key(largest)
    check_enough("training pairs", len(dataset.train.pairs), *batch)
    save_dataset(dataset, params.artifacts / "data")
    for i, (name, (channels, height, width)) in enumerate(dataset.shapes.items()):
        train, test = (
            f"{len(split.images[name]):,} {part} images ({len(split.pairs[:, i].unique()):,} in pairs)"
            for part, split in (("training", dataset.train), ("test", dataset.test))
        )
        print(f"{images.titles[name]}: {train} and {test}, {channels}x{height}x{width}")
    print(f"pairs: {len(dataset.train.pairs):,} for training and {len(dataset.test.pairs):,} for testing")
