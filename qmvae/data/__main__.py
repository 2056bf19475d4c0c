"""Make the images and pairs of the preset: `python -m qmvae.data`, the first stage of dvc.yaml."""

from qmvae import params
from qmvae.data import DataError, make, save
from qmvae.files import FileError


def main() -> None:
    try:
        settings = params.load()
        dataset = make(settings)
        save(dataset, settings)
    except (params.ParamsError, DataError, FileError) as error:
        raise SystemExit(f"data: {error}") from None
    for name, (channels, height, width) in dataset.shapes.items():
        train, test = len(dataset.train.images[name]), len(dataset.test.images[name])
        print(f"{dataset.titles[name]}: {train:,} training and {test:,} test images, {channels}x{height}x{width}")
    print(f"pairs: {len(dataset.train.pairs):,} for training and {len(dataset.test.pairs):,} for testing")


if __name__ == "__main__":
    main()
