"""The pages at /dashboard: rendered here, escaped, with a few lines of script for live events."""
