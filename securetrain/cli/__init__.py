"""The command `securetrain`."""
