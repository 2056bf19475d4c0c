"""Q-MVAE, one part of the paper a file: Gaussians, the quadruplet loss, the networks, the interface, the model."""
