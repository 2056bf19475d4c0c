"""Q-MVAE (Chen et al. 2022) and the models that its paper compares with or builds on, behind the numbered notebooks."""

import os

__version__ = "0.1.0"


def load(folder, device="cpu"):
    """Return the trained model of a folder, in eval mode, with float32 weights on the device.

    folder: with model.safetensors and model.json, such as reports/subset/checkpoint (Q-MVAE), its subfolders (other
    models), or artifacts/<preset>/models/<model>/seed-<k>. Both files are data: a folder from a stranger runs no code.

    The model takes mappings from modalities to images, float (N, C, H, W) in [0, 1]. `cross_generate(images, target)`
    returns images of the target. `shared(images)` returns the distribution of the shared code: .mean, .logvar (N, D).
    `private(modality, images)` returns that of the private code. qmvae/model/base.py has these and other methods.
    Raises FileError (qmvae.pipeline.files) where a file is missing or broken, or where the two do not fit each other.
    """
    from qmvae.pipeline.checkpoint import load_model  # late, so that `import qmvae` takes no time

    return load_model(os.path.expanduser(folder), device)
