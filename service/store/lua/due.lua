-- Queue a scheduled job whose time has come.
-- KEYS  1-6 keys.lifecycle   7 scheduled registry   8 queue list
-- ARGV  1 job id   2 now, unix   3 now, RQ's format   4 channel keys.WAKE   5 queue name   6 most events kept
--       7 data of the queued event
-- Returns 1, or 0 if there is nothing to do any more.
local at = redis.call("ZSCORE", KEYS[7], ARGV[1])
if not at or tonumber(at) > tonumber(ARGV[2]) then return 0 end
redis.call("ZREM", KEYS[7], ARGV[1])
if redis.call("HGET", KEYS[1], "status") ~= "scheduled" then return 0 end
redis.call("HSET", KEYS[1], "status", "queued", "enqueued_at", ARGV[3])
emit(KEYS[2], ARGV[6], "queued", ARGV[7])
redis.call("RPUSH", KEYS[8], ARGV[1])
redis.call("PUBLISH", ARGV[4], ARGV[5])
return 1
