-- For each model, as pairs of its order and its clock in KEYS: how many jobs wait, and for how many
-- seconds none of them was taken. Counted from the first look that found them; a taking ends it.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local found = {}

for number = 1, #KEYS, 2 do
  local order, clock = KEYS[number], KEYS[number + 1]
  local waiting = redis.call('ZCARD', order)
  local since = redis.call('HGET', clock, 'since')
  if waiting == 0 then
    if since then redis.call('HDEL', clock, 'since') end
    since = now
  elseif not since then
    redis.call('HSET', clock, 'since', string.format('%.6f', now))
    since = now
  end
  table.insert(found, waiting)
  table.insert(found, string.format('%.6f', math.max(0, now - since)))
end
return found
