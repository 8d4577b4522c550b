"""The resource `SecureTrainingJob`, the names and the wire types that all parts share."""
