-- Fail a job that waited in its queue for longer than it may.
-- KEYS  1-6 keys.lifecycle   7 queue list   8 scheduled   9 failed registry   10 keys.START_DEADLINES
-- ARGV  1 job id   2 now, unix   3 now, RQ's format   4 ttl   5 tombstone ttl   6 most events kept
--       7 error, JSON   8 data of the failed event   9... fields of the result
-- Returns 1, or 0 if there is nothing to do any more.
local state = redis.call("HMGET", KEYS[1], "status", "start_deadline")
if state[1] ~= "queued" and state[1] ~= "scheduled" then
  redis.call("ZREM", KEYS[10], ARGV[1])
  return 0
end
if not state[2] or tonumber(state[2]) > tonumber(ARGV[2]) then return 0 end
redis.call("LREM", KEYS[7], 0, ARGV[1])
redis.call("ZREM", KEYS[8], ARGV[1])
redis.call("ZREM", KEYS[10], ARGV[1])
redis.call("HSET", KEYS[1], "status", "failed", "ended_at", ARGV[3], "error", ARGV[7])
redis.call("HDEL", KEYS[1], "start_deadline")  -- else `rq requeue` could not bring it back
redis.call("XADD", KEYS[4], "MAXLEN", "~", 10, "*", unpack(ARGV, 9))
redis.call("ZADD", KEYS[9], ARGV[2] + ARGV[4], ARGV[1])
change(KEYS, ARGV[6], "failed", ARGV[8])
keep_for(KEYS, ARGV[4], ARGV[5])
return 1
