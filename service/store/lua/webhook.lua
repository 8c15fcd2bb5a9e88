-- Stands after prelude.lua before every script: a change of a job's status, told in its log and to its webhook.
-- Each call of a webhook is a job of its own, in the model and the queue `webhooks`, with the fields that
-- store/jobs.py writes too. It is made in the script that changes the status: nobody can die between the two.

-- Unix milliseconds as `2026-01-31T12:00:00.123`. Source: H. Hinnant, civil_from_days.
local function iso(ms)
  local days, rest = math.floor(ms / 86400000) + 719468, ms % 86400000
  local era = math.floor(days / 146097)
  local doe = days - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format("%04d-%02d-%02dT%02d:%02d:%02d.%03d", year, month, doy - math.floor((153 * mp + 2) / 5) + 1,
    math.floor(rest / 3600000), math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

-- The body, at most `most` bytes: an event that is too large for it is left out, and can be had at the URL.
local function webhook_body(id, event_id, moment, kind, data, model, metadata, most)
  local head = '{"type":"job.' .. kind .. '","timestamp":"' .. moment .. 'Z","data":{"job_id":"' .. id ..
    '","event_id":"' .. event_id .. '","model":"' .. model .. '","url":"/v1/jobs/' .. id .. '"'
  if #head + #data > most then
    data = kind == "finished" and '{"result_url":"/v1/jobs/' .. id .. '/result"}' or "{}"
  end
  local tail = data == "{}" and "}}" or "," .. string.sub(data, 2) .. "}"
  metadata = ',"metadata":' .. metadata
  if #head + #metadata + #tail > most then metadata = "" end
  return head .. metadata .. tail
end

-- The receiver has answered 410 to an earlier call for this job: it wants no more of them.
local function is_gone(prefix, deliveries)
  for delivery in string.gmatch(deliveries, "%S+") do
    local error = redis.call("HGET", prefix .. ":job:" .. delivery, "error")
    if error and string.find(error, '"type":"gone"', 1, true) then return true end
  end
  return false
end

local function wants(webhook, kind)
  for _, each in ipairs(webhook.events) do
    if each == kind then return true end
  end
  return false
end

local function call_webhook(job, limit, event_id, kind, data)
  local state = redis.call("HMGET", job, "webhook", "deliveries", "model", "metadata")
  if not state[1] then return end
  local webhook = cjson.decode(state[1])
  local prefix, id = string.match(job, "^(.*):job:([^:]+)$")
  local deliveries = state[2] or ""
  if not wants(webhook, kind) or is_gone(prefix, deliveries) then return end
  local delivery = "webhook_" .. event_id .. "_" .. id
  local hash, own = prefix .. ":job:" .. delivery, "service:job:" .. delivery
  local moment = iso(tonumber(string.match(event_id, "^%d+")))
  local body = webhook_body(id, event_id, moment, kind, data, state[3], state[4] or "null", webhook.largest)
  local input = {id = delivery, url = webhook.url, body = body}
  redis.call("HSET", hash, "created_at", moment .. "000Z", "enqueued_at", moment .. "000Z", "origin", "webhooks",
    "description", "webhooks", "status", "queued", "model", "webhooks", "priority", "default", "metadata", "null",
    "webhook_of", id, "webhook_event", kind, "data", cjson.encode({webhook.entry, cjson.null, {"webhooks", input}, {}}),
    unpack(webhook.fields))
  redis.call("SET", own .. ":known", "")
  redis.call("HSET", job, "deliveries", deliveries == "" and delivery or deliveries .. " " .. delivery)
  redis.call("SADD", prefix .. ":queues", prefix .. ":queue:webhooks")
  emit(own .. ":events", limit, "queued", '{"queue":"webhooks","priority":"default"}')
  redis.call("RPUSH", prefix .. ":queue:webhooks", delivery)
  redis.call("PUBLISH", "service:wake", "webhooks")
end

-- A job has another status: its event, and what follows from it.
local function change(lifecycle, limit, kind, data)
  call_webhook(lifecycle[1], limit, emit(lifecycle[2], limit, kind, data), kind, data)
end
