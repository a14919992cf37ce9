"""The run that can be believed: what is frozen, what runs inside, what is read outside."""
