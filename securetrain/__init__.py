"""The trusted core of securetrain: sealed formats, Vault, audit, signing and the command line."""

__version__ = "0.1.0"
