-- Take jobs out of an index when they themselves have gone.
-- KEYS  1 index, a sorted set
-- ARGV  1 RQ's key prefix   2 tombstone ttl   3... job ids
-- Returns how many have gone. The keys of the jobs are not declared, as in turn.lua.
local prefix, gone = ARGV[1], 0
for i = 3, #ARGV do
  local own = lifecycle(prefix, ARGV[i])
  if redis.call("EXISTS", own[1]) == 0 then
    gone = gone + 1
    redis.call("ZREM", KEYS[1], ARGV[i])
    -- Somebody deleted the hash only (rq-dashboard, Job.delete): the rest would stay for ever.
    redis.call("DEL", own[2], own[4], own[5], own[6])
    if redis.call("TTL", own[3]) == -1 then redis.call("EXPIRE", own[3], ARGV[2]) end
  end
end
return gone
