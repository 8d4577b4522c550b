"""The key gateway: the only door through which a pod gets keys."""
