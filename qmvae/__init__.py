"""Q-MVAE (Chen et al. 2022) and the models that its paper compares with, behind the numbered notebooks."""

__version__ = "0.1.0"


def load(folder, device="cpu"):
    """The trained model in `folder`; see qmvae.checkpoint.load."""
    from qmvae.checkpoint import load  # here, so that `import qmvae` costs nothing

    return load(folder, device)
