"""What submit.py is made of."""
