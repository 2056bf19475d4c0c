"""Parameters, files, stages, checkpoints and notebooks: all that makes a run of the models repeatable."""
