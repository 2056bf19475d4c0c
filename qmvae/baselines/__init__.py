"""The models that the paper compares Q-MVAE with, one a file, each with the objective of its own paper."""
