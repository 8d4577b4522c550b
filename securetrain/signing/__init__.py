"""OpenSSF model signatures whose key never leaves Vault."""
