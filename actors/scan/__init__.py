"""What a patch should not bring: insecure code, secrets, dependencies from elsewhere or with known faults."""
