"""The commands of `raysmith`, by theme. Nothing here imports Ray or pydantic before a command runs."""
