"""What sends webhooks: one signed POST a try, and never to an address that is not public."""
