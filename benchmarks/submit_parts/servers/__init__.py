"""The web processes that ours is compared with; each the shortest that people write."""
