"""The peers: each a server as short as what it shows allows."""
