-- Claim abandoned executions: whoever else cleans up now, stock RQ too, finds them not expired.
-- KEYS  1 wip, scored by the end of each lease
-- ARGV  1 now, unix   2 end of the claim, unix
-- Returns the members claimed.
local members = redis.call("ZRANGEBYSCORE", KEYS[1], 0, ARGV[1], "LIMIT", 0, 100)
for _, member in ipairs(members) do redis.call("ZADD", KEYS[1], ARGV[2], member) end
return members
