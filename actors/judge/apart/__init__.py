"""What runs on the two sides of the out-of-process judge; laid into sandboxes as text."""
