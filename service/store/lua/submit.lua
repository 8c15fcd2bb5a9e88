-- Accept one job: the job, its event log and its place in the queue, or nothing of it.
-- KEYS  1-6  keys.lifecycle   7 queue list   8 keys.QUEUES   9 keys.JOBS   10 keys.jobs_of   11 keys.START_DEADLINES
-- ARGV  1 job id   2 time of submit   3 start deadline or ""   4 channel keys.WAKE   5 queue name
--       6 most events kept   7 data of the queued event   8 channel keys.SUBMITTED   9 its message
--       10... fields of the job hash
-- Returns the length of the queue with it, or 0 if there is a job of this id: the client library may have
--         sent this script twice.
if redis.call("EXISTS", KEYS[1], KEYS[3]) > 0 then return 0 end
redis.call("HSET", KEYS[1], unpack(ARGV, 10))
redis.call("SET", KEYS[3], "1")
redis.call("SADD", KEYS[8], KEYS[7])
redis.call("ZADD", KEYS[9], ARGV[2], ARGV[1])
redis.call("ZADD", KEYS[10], ARGV[2], ARGV[1])
if ARGV[3] ~= "" then redis.call("ZADD", KEYS[11], ARGV[3], ARGV[1]) end
emit(KEYS[2], ARGV[6], "queued", ARGV[7])
local length = redis.call("RPUSH", KEYS[7], ARGV[1])
redis.call("PUBLISH", ARGV[4], ARGV[5])
redis.call("PUBLISH", ARGV[8], ARGV[9])
return length
