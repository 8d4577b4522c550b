"""The trainer: runs inside the training and certify pods."""
