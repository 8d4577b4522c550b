"""The operator: watches SecureTrainingJobs, runs them, and brokers their keys."""
