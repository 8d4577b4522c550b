"""HashiCorp Vault (or OpenBao): one module per party, so that imports prove who may do what."""
