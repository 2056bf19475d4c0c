"""What turns the paper's code into runs that can be repeated: parameters, files, stages, checkpoints, notebooks."""
