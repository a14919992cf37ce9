"""A past run done again from its recording: agents for real, models and sandboxes answered from the file."""
