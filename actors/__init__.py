"""The hands: plain classes that write, test, run and repair code. No Ray in sight."""
