-- Claim abandoned executions: whoever else cleans up now, stock RQ too, finds them not expired. By Redis's clock: the
-- leases were written on other hosts.
-- KEYS  1 wip, scored by the end of each lease
-- ARGV  1 seconds that the claim lasts   2 how many at most
-- Returns the members claimed.
local members = redis.call("ZRANGEBYSCORE", KEYS[1], 0, SECOND, "LIMIT", 0, ARGV[2])
for _, member in ipairs(members) do redis.call("ZADD", KEYS[1], SECOND + ARGV[1], member) end
return members
