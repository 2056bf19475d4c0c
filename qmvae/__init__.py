"""Q-MVAE (Chen et al. 2022) and the models that its paper compares with or builds on, behind the numbered notebooks."""

__version__ = "0.1.0"


def load(folder, device="cpu"):
    """Return the trained model in `folder`; see qmvae.pipeline.checkpoint.load_model."""
    from qmvae.pipeline.checkpoint import load_model  # late, so that `import qmvae` takes no time

    return load_model(folder, device)
