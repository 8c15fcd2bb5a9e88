-- Say how the models of a worker do.
-- KEYS  1 keys.MODELS   2 keys.RENEWED, then keys.serving of each model
-- ARGV  1 worker   2 seconds for which that holds   3... of each its name, its description (JSON), report (JSON without
--       its last brace), and when the description is published: "now", "unless there is one" (it is that of a file
--       which cannot be imported), or "if nobody serves what is": after a worker with other code has ended, or when
--       Redis came back empty
-- Returns now, unix.
local function version_of(description)
  local good, published = pcall(cjson.decode, description)
  return good and type(published) == "table" and type(published.version) == "string" and published.version
end

local function outdated(description, own, serving)
  if not description then return true end
  if description == own then return false end
  local version = version_of(description)
  return not version or not is_served(serving, version)
end

for i = 3, #KEYS do
  local at = 4 * i - 9
  local name, description, when = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  undecided()
  write("HSET", KEYS[i], ARGV[1], ARGV[at + 2] .. string.format(',"until":%.6f}', NOW + ARGV[2]))
  decided()
  call("EXPIRE", KEYS[i], ARGV[2] + 1)
  local published = try("HGET", KEYS[1], name)
  published = type(published) == "string" and published
  if when == "now" or not published or (when ~= "unless there is one" and outdated(published, description, KEYS[i])) then
    undecided()
    write("HSET", KEYS[1], name, description)
  end
  write("ZADD", KEYS[2], NOW, name)
end
return string.format("%.6f", NOW)
