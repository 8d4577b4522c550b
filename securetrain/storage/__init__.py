"""Where sealed files lie: addresses, connections, and objects on S3. Ciphertext only."""
