-- Append events to their jobs' logs and announce them, each if the writer still owns the job, the number
-- is the next one and the log has not ended. Sent again (the reply was lost), the same append is
-- accepted again and stored once. Returns 1 for each, or 0: fenced off.
local FIELDS = 6
local claims = KEYS[1]
local verdicts = {}

local function append(log, job, owner, seq, event, ends, channel)
  if redis.call('HGET', claims, job) ~= owner then return 0 end
  local id = seq .. '-0'
  local tail = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local last = tail and tonumber(string.match(tail[1], '^%d+')) or 0
  if tonumber(seq) ~= last + 1 or (tail and tail[2][6] == '1') then
    local mine = redis.call('XRANGE', log, id, id)[1]
    return (mine and mine[2][2] == event and mine[2][4] == owner) and 1 or 0
  end
  redis.call('XADD', log, id, 'event', event, 'writer', owner, 'end', ends)
  redis.call('PUBLISH', channel, event)
  return 1
end

for number = 1, #KEYS - 1 do
  local first = (number - 1) * FIELDS + 1
  verdicts[number] = append(KEYS[number + 1], unpack(ARGV, first, first + FIELDS - 1))
end
return verdicts
