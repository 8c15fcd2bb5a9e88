-- Take a job out of an index when the job itself has gone.
-- KEYS  1-6 keys.lifecycle   7 index, a sorted set
-- ARGV  1 job id   2 tombstone ttl
-- Returns 1 if it has gone.
if redis.call("EXISTS", KEYS[1]) == 1 then return 0 end
redis.call("ZREM", KEYS[7], ARGV[1])
-- Somebody deleted the hash only (rq-dashboard, Job.delete): the rest would stay for ever.
redis.call("DEL", KEYS[2], KEYS[4], KEYS[5], KEYS[6])
if redis.call("TTL", KEYS[3]) == -1 then redis.call("EXPIRE", KEYS[3], ARGV[2]) end
return 1
