"""The models that the paper compares Q-MVAE with, five related ones, and our extension of Q-MVAE: one file each."""
