"""What runs inside a sandbox: the standard library and the task's own pytest, nothing else of ours."""
