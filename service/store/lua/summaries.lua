-- Some jobs for a list: without their payloads and results, unless these are wanted and there is room for them.
-- KEYS  job hash, results stream of each
-- ARGV  1 most bytes   2 "1" for payloads   3 "1" for results   4 statuses, space-separated, of the jobs that are
--       wanted, or ""   5... names of fields, then "", then job ids
-- Returns {fields, payload or false, latest result or false, position or false, 1 if it should have started by now} of
-- each, until the bytes are used up: of fewer jobs than were asked for, then. No fields: there is no such job. Of one
-- with another status it is just that.
local names, ids, rows, room = {}, {}, {}, tonumber(ARGV[1])
for i = 5, #ARGV do
  if ARGV[i] == "" then
    ids = {unpack(ARGV, i + 1)}
    break
  end
  names[#names + 1] = ARGV[i]
end

-- What is of another type than it should be is as if it were not there: one such key must not break a list.
local function ask(...)
  local answer = try(...)
  if type(answer) == "table" and answer.err then return false end
  return answer
end

local function add(fields, name, value)
  if value then
    fields[#fields + 1], fields[#fields + 2] = name, value
    room = room - #name - #value
  end
end

local function summary(job)
  local fields, attempts = {}, 0
  for i, value in ipairs(call("HMGET", job, unpack(names))) do
    add(fields, names[i], value)
    if names[i] == "attempts" and value then attempts = math.min(tonumber(value) or 0, 100) end
  end
  for i = 1, attempts do add(fields, "attempt:" .. i, call("HGET", job, "attempt:" .. i)) end
  return fields
end

local function latest(results, wanted)
  if not wanted then return false end
  local entry = (ask("XREVRANGE", results, "+", "-", "COUNT", 1) or {})[1]
  if not entry then return {} end
  local size = 0
  for _, text in ipairs(entry[2]) do size = size + #text end
  room = room - size
  return room >= 0 and entry[2] or false
end

for i, id in ipairs(ids) do
  local job, results = KEYS[2 * i - 1], KEYS[2 * i]
  local size = ask("HSTRLEN", job, "data") or 0
  local said = ask("HMGET", job, "status", "origin", "start_deadline", "error") or {}
  local status, origin, deadline, error = said[1], said[2], said[3], said[4]
  if not status or size == 0 then
    rows[i] = {{}, false, false, false, 0}
  elseif ARGV[4] ~= "" and not deadline and not string.find(ARGV[4], " " .. status .. " ", 1, true) then
    rows[i] = {{"status", status}, false, false, false, 0}
  else
    local fields, payload, position = summary(job), false, false
    if ARGV[2] == "1" then
      room = room - size
      if room >= 0 then payload = call("HGET", job, "data") end
    end
    -- Why a job failed that RQ ended is said there only.
    local result = latest(results, ARGV[3] == "1" or (status == "failed" and not error))
    if status == "queued" and origin then position = ask("LPOS", queue_key(origin), id, "MAXLEN", 10000) end
    rows[i] = {fields, payload, result, position, is_late(status, deadline)}
  end
  if room <= 0 then break end
end
return rows
