-- Write a lease that RQ has written by its host's clock once more, by Redis's: other hosts judge it.
-- KEYS  1 wip   2 executions
-- ARGV  1 member of wip   2 execution id   3 seconds of the lease
-- Returns 1 if it was there; one that was taken away does not come back.
local ends = SECOND + ARGV[3]
if not redis.call("ZSCORE", KEYS[1], ARGV[1]) then return 0 end
redis.call("ZADD", KEYS[1], ends, ARGV[1])
redis.call("ZADD", KEYS[2], "XX", ends + 60, ARGV[2])
return 1
