-- Queue a job again that is over, or waits for its next try: at the end of its queue, with all its retries, as if it
-- were new.
-- KEYS  1-6 keys.lifecycle   7 queue list   8 finished   9 failed   10 canceled,
--       11 scheduled registry   12 keys.START_DEADLINES
-- ARGV  1 job id   2 id of this request   3 queue name   4 most events kept   5 data of the queued event
--       6... the statuses that it may have
-- Returns "requeued", also if this very call was made before; else, with nothing changed, "gone" if it cannot be
--         read any more, or its status.
local job = try("HMGET", KEYS[1], "status", "data", "requeued_by", "retries")
if job.err or not job[1] or not job[2] then
  for i = 8, 11 do call("ZREM", KEYS[i], ARGV[1]) end
  return "gone"
end
if job[3] == ARGV[2] then return "requeued" end
local allowed = false
for i = 6, #ARGV do allowed = allowed or ARGV[i] == job[1] end
if not allowed then return job[1] end
call("HSET", KEYS[1], "status", "queued", "enqueued_at", rq_now(), "started_at", "", "ended_at", "",
  "worker_name", "", "requeued_by", ARGV[2])
decided()
write("RPUSH", KEYS[7], ARGV[1])
for i = 8, 12 do call("ZREM", KEYS[i], ARGV[1]) end
if job[4] then call("HSET", KEYS[1], "retries_left", job[4]) end
call("HDEL", KEYS[1], "error", "cancel_requested_at", "cancel_acknowledged_at", "cancel_mode", "start_deadline",
  "crashes", "waits_for", "waits_until")
for i = 1, 6 do call("PERSIST", KEYS[i]) end
emit(KEYS[2], ARGV[4], "queued", ARGV[5])
try("PUBLISH", WAKE, ARGV[3])
return "requeued"
