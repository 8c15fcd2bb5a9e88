-- Accept one job: the job, its event log and its place in the queue, or nothing of it.
-- KEYS  1-6  keys.lifecycle   7 queue list   8 keys.QUEUES   9 keys.JOBS   10 keys.jobs_of   11 keys.START_DEADLINES
--       12-14 lists of all queues of the model   15 keys.idempotency, if the caller gave a key
-- ARGV  1 job id   2 time of submit   3 start deadline or ""   4 channel keys.WAKE   5 queue name
--       6 most events kept   7 data of the queued event   8 channel keys.SUBMITTED   9 its message
--       10 fingerprint of what was asked for   11 seconds to keep the idempotency key
--       12 jobs of the model that may wait, or 0 for any number   13... fields of the job hash
-- Returns {length of the queue with it, ""}; {-1, how many wait} if those are too many; or, if there is a job of this
--         id or of this idempotency key, {0, "<its id> <its fingerprint>"}: that may be this very job, since the
--         client library may send this twice.
local this = ARGV[1] .. " " .. ARGV[10]
if KEYS[15] then
  local prior = redis.call("GET", KEYS[15])
  if prior and prior ~= this then return {0, prior} end
end
if redis.call("EXISTS", KEYS[1], KEYS[3]) > 0 then
  return {0, ARGV[1] .. " " .. (redis.call("GET", KEYS[3]) or "")}
end
if ARGV[12] ~= "0" then
  local waiting = redis.call("LLEN", KEYS[12]) + redis.call("LLEN", KEYS[13]) + redis.call("LLEN", KEYS[14])
  if waiting >= tonumber(ARGV[12]) then return {-1, tostring(waiting)} end
end
redis.call("HSET", KEYS[1], unpack(ARGV, 13))
redis.call("SET", KEYS[3], ARGV[10])
if KEYS[15] then redis.call("SET", KEYS[15], this, "EX", ARGV[11]) end
redis.call("SADD", KEYS[8], KEYS[7])
redis.call("ZADD", KEYS[9], ARGV[2], ARGV[1])
redis.call("ZADD", KEYS[10], ARGV[2], ARGV[1])
if ARGV[3] ~= "" then redis.call("ZADD", KEYS[11], ARGV[3], ARGV[1]) end
emit(KEYS[2], ARGV[6], "queued", ARGV[7])
local length = redis.call("RPUSH", KEYS[7], ARGV[1])
redis.call("PUBLISH", ARGV[4], ARGV[5])
redis.call("PUBLISH", ARGV[8], ARGV[9])
return {length, ""}
