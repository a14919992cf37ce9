"""The shell agent: a model at a shell in a sandbox, one command a turn, until its patch passes."""
