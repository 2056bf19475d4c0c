"""The models that the paper compares Q-MVAE with, and five related ones: one file and its own objective for each."""
