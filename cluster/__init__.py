"""Where things run: Ray actors, leases, and the durable store."""
