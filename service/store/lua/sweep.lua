-- Take jobs out of an index when they themselves have gone.
-- KEYS  1 index, a sorted set
-- ARGV  1 RQ's key prefix   2 tombstone ttl   3... job ids
-- Returns how many have gone. The keys of the jobs are not declared, as in turn.lua.
local prefix, gone = ARGV[1], 0
for i = 3, #ARGV do
  local id = ARGV[i]
  local job, own = prefix .. ":job:" .. id, "service:job:" .. id
  if redis.call("EXISTS", job) == 0 then
    gone = gone + 1
    redis.call("ZREM", KEYS[1], id)
    -- Somebody deleted the hash only (rq-dashboard, Job.delete): the rest would stay for ever.
    redis.call("DEL", own .. ":events", prefix .. ":results:" .. id, job .. ":dependents",
      prefix .. ":job::" .. id .. ":dependencies")
    if redis.call("TTL", own .. ":known") == -1 then redis.call("EXPIRE", own .. ":known", ARGV[2]) end
  end
end
return gone
