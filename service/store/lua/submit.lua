-- Accept one job: the job, its event log and its place in the queue, or nothing of it.
-- KEYS  1-6  keys.lifecycle   7 queue list   8 keys.QUEUES   9 keys.JOBS   10 keys.jobs_of   11 keys.START_DEADLINES
--       12-14 lists of all queues of the model   15 keys.idempotency, if the caller gave a key
-- ARGV  1 job id   2 "" or seconds within which it must start   3 queue name   4 most events kept
--       5 data of the queued event   6 message on SUBMITTED   7 fingerprint of what was asked for
--       8 seconds to keep the idempotency key   9 jobs of the model that may wait, or 0 for any number
--       10... fields of the job hash
-- Returns {length of the queue with it, "", now in RQ's format}; {-1, how many wait} if those are too many; or, if there
--         is a job of this id or of this idempotency key, {0, "<its id> <its fingerprint>"}: that may be this very job,
--         since the client library may send this twice.
local this = ARGV[1] .. " " .. ARGV[7]
if KEYS[15] then
  local prior = redis.call("GET", KEYS[15])
  if prior and prior ~= this then return {0, prior} end
end
if redis.call("EXISTS", KEYS[1], KEYS[3]) > 0 then
  local known = try("GET", KEYS[3])
  return {0, ARGV[1] .. " " .. (type(known) == "string" and known or "")}
end
if ARGV[9] ~= "0" then
  local waiting = 0
  for i = 12, 14 do
    local length = try("LLEN", KEYS[i])
    waiting = waiting + (type(length) == "number" and length or 0)
  end
  if waiting >= tonumber(ARGV[9]) then return {-1, tostring(waiting)} end
end
local moment = rq_now()
-- The places first, the job last: should one be refused, an id without a job is left, which everybody passes over.
local length = write("RPUSH", KEYS[7], ARGV[1])
write("SADD", KEYS[8], KEYS[7])
write("ZADD", KEYS[9], NOW, ARGV[1])
write("ZADD", KEYS[10], NOW, ARGV[1])
if ARGV[2] ~= "" then write("ZADD", KEYS[11], NOW + ARGV[2], ARGV[1]) end
emit(KEYS[2], ARGV[4], "queued", ARGV[5])
redis.call("SET", KEYS[3], ARGV[7])
redis.call("HSET", KEYS[1], "created_at", moment, "enqueued_at", moment, unpack(ARGV, 10))
if ARGV[2] ~= "" then redis.call("HSET", KEYS[1], "start_deadline", string.format("%.6f", NOW + ARGV[2])) end
if KEYS[15] then redis.call("SET", KEYS[15], this, "EX", ARGV[8]) end
try("PUBLISH", WAKE, ARGV[3])
try("PUBLISH", SUBMITTED, ARGV[6])
return {length, "", moment}
