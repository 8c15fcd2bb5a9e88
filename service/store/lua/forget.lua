-- Forget a model that no worker has any more.
-- KEYS  1 keys.MODELS   2 keys.RENEWED   3 keys.serving   4... what must be empty: lists and sorted sets of its jobs
-- ARGV  1 model   2 "", or seconds for which no worker may have renewed it
-- Returns 1 if it was forgotten, 0 if it is not known, or is not that old, or has jobs, or -1 if a worker serves it.
if call("HEXISTS", KEYS[1], ARGV[1]) == 0 then
  try("ZREM", KEYS[2], ARGV[1])
  return 0
end
if is_served(KEYS[3]) then return -1 end
if ARGV[2] ~= "" then
  local renewed = try("ZSCORE", KEYS[2], ARGV[1])
  if type(renewed) ~= "string" then  -- published before this was noted
    write("ZADD", KEYS[2], NOW, ARGV[1])
    return 0
  end
  if tonumber(renewed) + ARGV[2] > NOW then return 0 end
  for i = 4, #KEYS do
    if call("EXISTS", KEYS[i]) == 1 then return 0 end
  end
end
call("HDEL", KEYS[1], ARGV[1])
decided()
try("ZREM", KEYS[2], ARGV[1])
try("DEL", KEYS[3])
return 1
