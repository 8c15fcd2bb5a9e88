"""The parts of relay.py, a module each, and what they share."""
