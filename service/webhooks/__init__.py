"""What sends webhooks: one signed POST a try, and never to an address that is not public."""

MODEL = "webhooks"
"""The model and the queue of all deliveries, which delivery.py has; no model of a user has this name, and no caller
submits to it."""
