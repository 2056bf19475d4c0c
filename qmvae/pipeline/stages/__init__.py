"""One file a stage, as `python -m qmvae <stage>` runs it: each has `run(...)`."""
